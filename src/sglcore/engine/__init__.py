"""The engine: building it, its loop, its link to the API side, and text on the API side."""
