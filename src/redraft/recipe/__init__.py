"""Complete runs, one file each."""
