"""Commands in groups, as `lab/commands.py` is one."""
