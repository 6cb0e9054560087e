"""Other projects' checkpoints: their configurations and names of weights, as ours."""
