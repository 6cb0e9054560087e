"""Networks. They know tokens, t and a mask; no processes, no samplers."""
