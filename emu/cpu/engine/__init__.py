"""All that knows Unicorn: its library, its internals, and the C that its engines call.

Below the rest of ``emu.cpu``, of which it imports the tables of registers and features only. The crash laboratory uses
``trace``; nobody else outside ``emu.cpu`` imports from here.
"""
