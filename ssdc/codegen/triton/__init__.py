"""Text of Triton kernels for masked contractions whose mask is one number a head."""
