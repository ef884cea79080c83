"""Pictures of a plate whose truth is known: a law of growth in each well, drawn as a microscope would show it.

Nothing is written here: `plate.files` yields names and bytes. Everything follows from the design and its seed.
"""
