"""`python -m jaxrec` is the command `jaxrec`."""

from jaxrec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
