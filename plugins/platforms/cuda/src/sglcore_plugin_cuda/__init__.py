"""NVIDIA GPUs for sglcore."""
