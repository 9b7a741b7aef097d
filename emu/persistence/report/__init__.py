"""Says what an investigation found: the document, and the page and the terminal that show it."""
