"""The main job on the embedded default: submit, queue, worker, result and export in one process, in one folder.

Everything that a run knows lies in its output folder, so that the same command continues after any interruption.
"""
