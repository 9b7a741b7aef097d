"""What a trace means: which memories a power failure can leave. Pure: no machine, no kernel, no file."""
