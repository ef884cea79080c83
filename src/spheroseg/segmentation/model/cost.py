"""Measures the time and memory that one picture takes.

`python -m spheroseg.segmentation.model.cost FOLDER` prints the seconds and bytes as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from spheroseg.segmentation.model.network import Network


def main() -> None:
    # The child process of a worker also uses one thread.
    cv2.setNumThreads(1)
    network = Network(Path(sys.argv[1]))
    y, x = np.mgrid[0:1000, 0:1000]
    # Small objects take the most passes.
    picture = np.where(np.hypot(x % 25 - 12, y % 25 - 12) < 5, 60, 200).astype(np.float32)
    picture += np.random.default_rng(1).normal(0, 3, picture.shape).astype(np.float32)
    network.maps([picture])
    started = time.perf_counter()
    network.maps([picture])
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "bytes": _peak_memory()}))


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    # Linux includes the parent's memory at the fork in ru_maxrss, but not in VmHWM.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
