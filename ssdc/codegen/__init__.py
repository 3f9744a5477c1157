"""Plan -> text: a plan and its graph as a readable module of PyTorch, rendered from templates."""
