"""What noise does: q(xt | x0), one file a process."""
