"""Reasoning between <think> and </think>."""
