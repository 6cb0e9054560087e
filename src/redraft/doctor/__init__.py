"""`redraft doctor`: what a checkpoint is, and whether it is sound."""
