"""Kernels in Triton: the operations on a GPU, imported only where Triton is installed.

No atomic additions of floats: a sum has one order, so equal inputs give equal bits.
"""
