"""Triton kernels, one file a kind; each has a torch reference in `sglcore.layers.reference`."""
