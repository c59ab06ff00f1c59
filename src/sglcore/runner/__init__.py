"""Running: batches become tensors, tensors become tokens. Knows no queue and no policy."""
