"""From log-probabilities to the next canvas."""
