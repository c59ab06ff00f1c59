"""Qwen3 models for sglcore."""
