"""Keys and values of positions that will not change any more."""
