"""Small versions of published persistent-memory structures, each with its published bugs; see ``catalogue``."""
