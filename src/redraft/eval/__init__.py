"""What a model is worth, with error bars."""
