"""Text -> torch: the generated module loaded, its primitives, the module that users hold, the float64 reference."""
