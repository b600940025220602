"""Loops compiled by Numba: what PyTorch has no single operation for. Plain arrays in and out, no tensors."""
