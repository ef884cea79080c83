"""Simulates plates with known truth: each well follows a growth law and is drawn as a microscope would show it.

`design` and `laws` define the wells, `frames` lists their pictures, `outlines`, `appearance` and `noise` draw them,
`plate` encodes the files and `truth` makes the tables. Nothing is written here: `plate.draw_files` yields names and
bytes. The same design, which includes the seed, gives the same files.
"""
