"""Simulated plates with known truth: each well follows a growth law and is drawn as a microscope would show it.

Nothing is written here: `plate.draw_files` yields names and bytes. Everything follows from the design and its seed.
"""
