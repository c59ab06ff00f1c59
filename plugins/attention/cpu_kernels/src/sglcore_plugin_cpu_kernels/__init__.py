"""Compiled float32 kernels for a CPU, built once with the machine's own C compiler."""
