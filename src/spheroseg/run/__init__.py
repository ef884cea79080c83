"""`spheroseg run`: segment images and write results in one process, with an embedded database, in one folder.

Everything about a run is kept in its output folder, so that the same command continues after any interruption. First,
`plan` calls `inputs` and `plate_layout`; nothing is written yet. Then `execute` calls `prepare`, `process` and
`outputs`. `run_images` does all this as a Python function. `single_image` is independent: it works in memory alone.
"""
