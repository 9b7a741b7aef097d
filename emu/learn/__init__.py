"""Lessons: what `emu learn` runs. Each is data in a folder of its own (docs/how-to/write-a-lesson.md)."""
