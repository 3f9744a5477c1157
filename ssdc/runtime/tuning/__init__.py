"""The search for kernels beyond the cost model's, which `ssdc tune` runs; nothing else does.

candidates  neighbours of a choice: forms, segments, chunks, tiles, warps, stages, shared heads
trial       one candidate in a process of its own: checked against float64, then timed
search      rounds of candidates from the best so far, and a last comparison in turn
"""
