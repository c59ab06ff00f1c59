"""FlashInfer's paged attention for sglcore."""
