"""Triton kernels of generated text, launched as torch operators. Importing this package needs no Triton."""
