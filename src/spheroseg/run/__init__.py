"""`spheroseg run`: segment images and write results in one process, with an embedded database, in one folder.

Everything about a run is kept in its output folder, so that the same command continues after any interruption. The
steps in order: inputs, plate_layout and plan (nothing is written yet), then execute, which calls prepare, process and
outputs.
"""
