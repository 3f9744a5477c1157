"""Tree -> contraction graph: names, axes, sizes and times checked, masks and gates resolved, states derived."""
