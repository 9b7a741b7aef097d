"""The public Python API: what ``import emu`` offers (docs/reference/python.md).

Nothing here prints, touches signals or ends the process: that is the command line's. Long work is done in a thread, so
that Ctrl-C reaches the script's own.
"""
