"""Diffusion language models: trained, sampled, evaluated, correct by test."""

__version__ = "0.1.0"
