"""Finds the objects in an image and measures them. `pipeline` joins the steps:

1. `image` decodes a file, with the help of `file_format`, `tiff`, `tiff_page`, `codecs`, `ome` and `pixel_size`. For
   a stack, `stack` reads the position of each page and `planes` chooses pages.
2. A model computes the `maps` of the image: a network (package `model`), or `classical` (`background`, `candidates`).
3. `contours` traces the outlines (`marching_squares`). Touching objects are separated by `instances` (`watershed`),
   `splitting`, `membership` and `borders`.
4. `measure` and `quality` compute the values and the flags of each outline.
"""
