"""Attention: one function that chooses an implementation, and Pallas kernels for TPUs."""
