"""A model that says what its script tells it."""
