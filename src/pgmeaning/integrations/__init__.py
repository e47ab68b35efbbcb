"""For users of frameworks: one module each, with an extra of its name; nothing here is imported by the core."""
