"""A laboratory for theory: languages with known laws, exact denoisers, and what samplers do."""
