"""Computes the growth on a plate, in these steps:

1. `names` reads well and time from each file name, by `patterns` of instruments or `free_names`. `preview` is the
   result. `condition_table` reads the conditions of the wells, and `condition_assignment` adds them.
2. `layout` gives each image of a run its position; `detect` decides whether the images are a plate at all.
3. `debris` and `relative_growth` (with `neighbours`) complete the rows of the objects. `well_curves` computes the
   curve of each well from its `observations`, and `condition_statistics` the means of the conditions.
4. `fit_table` fits growth models (`growth_fit`). `endpoints` and `ic50` fit dose-response curves (`dose_response`).
"""
