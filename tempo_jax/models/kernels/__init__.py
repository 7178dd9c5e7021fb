"""Attention and what surrounds it: one function that chooses, and the TPU's Pallas kernels."""
