"""Shared fixtures. Folders under tests/ mirror src/sglcore."""
