"""The README's picture, from a finished RUN: `python -m experiments.figure RUN --out docs/overview.svg`."""

from __future__ import annotations

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from jaxrec import report, runs


def main(run: tyro.conf.Positional[Path], out: Path = Path("docs/overview.svg")) -> None:
    """Draws the two claims and the trade-off side by side.

    Args:
        run: A finished RUN folder.
        out: The picture; its suffix says the format.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = [figure.add_subplot(1, 3, n + 1) for n in range(3)]
    report.draw_claims(axes, runs.read_json(run / "readings.json"))
    report.draw_frontier(axes[2], runs.read_json(run / "frontier.json"))
    axes[2].set_title("the trade-off")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    tyro.cli(main)
