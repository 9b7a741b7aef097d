"""The crash laboratory: what a persistent memory can hold after the power fails, and whether recovery copes with it."""
