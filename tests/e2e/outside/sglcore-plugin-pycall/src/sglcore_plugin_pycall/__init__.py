"""Tool calls as a list of Python calls."""
