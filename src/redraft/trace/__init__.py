"""A run written down step by step, and shown again."""
