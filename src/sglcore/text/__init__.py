"""Text: from what people write to token ids and back, for the API side; the engine knows integers only."""
