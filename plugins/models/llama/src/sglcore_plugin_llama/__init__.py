"""Llama-shaped models for sglcore."""
