"""`spheroseg worker`, but for the child process: that is the tests' own, which needs no images."""

import sys
from functools import partial

from spheroseg.cli import _serve
from spheroseg.services import serve_worker

if __name__ == "__main__":
    _serve(partial(serve_worker, command=[sys.executable, "-m", "tests.children"]))
