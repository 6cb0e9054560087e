"""Checkpoints of other projects: their settings and names, translated into ours."""
