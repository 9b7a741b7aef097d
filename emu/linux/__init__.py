"""`emu run linux`: the user's own kernel with emu's init and the user's programs, made ready in memory.

Above the board, below who runs machines: nothing here starts one.
"""
