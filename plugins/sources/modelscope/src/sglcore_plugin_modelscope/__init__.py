"""ModelScope as a source of models for sglcore."""
