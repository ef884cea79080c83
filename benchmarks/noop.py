"""The child process of a worker slot with a model that does nothing, so that only the task system costs time.

Start it by path with `python -P`, so that queue.py beside it does not hide the standard library's module.
"""

from spheroseg.worker.child_server import Work, one_by_one, serve
from spheroseg.worker.pipe import Record

# As large as a real record of one small spheroid: about a kilobyte.
RECORD: Record = {
    "width": 1024,
    "height": 1024,
    "pixel_size": {"value_um": 0.65, "source": "user"},
    "flags": [],
    "objects": [{"outer": [[float(n), n + 0.5] for n in range(48)], "holes": [], "flags": [], "measurements": {}}],
    "model": {"name": "noop", "version": "1", "sha256": None},
}


def load() -> Work:
    return one_by_one(lambda task: RECORD)


if __name__ == "__main__":
    serve(load)
