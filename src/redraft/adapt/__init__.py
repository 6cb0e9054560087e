"""Turning one kind of model into another."""
