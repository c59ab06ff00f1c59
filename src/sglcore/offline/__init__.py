"""Engines in the caller's own process: what `LLM` and `Engine` are made of."""
