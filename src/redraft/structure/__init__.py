"""Regexes, JSON schemas and grammars as rules about tokens."""
