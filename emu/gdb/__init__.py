"""The debugger's door: gdb's remote serial protocol for a machine, and going back in time."""
