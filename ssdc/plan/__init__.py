"""Graph -> plan: an ordering for every masked contraction, priced, with its rivals and the refusals."""
