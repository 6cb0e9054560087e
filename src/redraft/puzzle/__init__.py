"""Problems whose answers a program can check, drawn from a seed: nobody's data."""
