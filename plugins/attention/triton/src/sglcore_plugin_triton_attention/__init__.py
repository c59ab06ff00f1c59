"""Paged attention in Triton for CUDA devices; the entry point's Spec is in `spec`."""
