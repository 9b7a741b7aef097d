"""Small edits, each of which breaks a promise and must turn a test red: ``python -m tests.mutants [NAME...]``.

An entry names the promise in words, the edit and the tests that stand for it. There is a list for each part of the
code. An entry whose tests stay green is a promise that nothing holds.
"""
