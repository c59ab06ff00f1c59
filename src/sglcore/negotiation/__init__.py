"""Negotiation: from what a model needs and what plugins declare to one choice, with a reason for every other."""
