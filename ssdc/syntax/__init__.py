"""Text to tree, and tree to text. What a name means is found out in `ssdc.graph`."""
