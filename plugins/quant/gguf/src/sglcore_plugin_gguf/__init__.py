"""GGUF as a weight format of sglcore: config, tokenizer and weights out of one file."""
