"""Kernels in Triton: the operations on a GPU, without atomic additions of floats; imported only where Triton is installed."""
