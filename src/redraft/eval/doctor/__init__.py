"""Is a checkpoint sound? Probes of networks, tokens and numbers; none of them reads a file."""
