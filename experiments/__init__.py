"""Studies: each is one command that anyone can run again; results are small files beside this one."""
