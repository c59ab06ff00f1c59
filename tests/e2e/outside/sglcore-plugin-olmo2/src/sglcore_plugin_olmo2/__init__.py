"""OLMo 2 for sglcore."""
