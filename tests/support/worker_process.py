"""`spheroseg worker` with the child process of the tests, which needs no images."""

import sys
from functools import partial

from spheroseg.cli.processes import run_until_stopped
from spheroseg.services import serve_worker

if __name__ == "__main__":
    run_until_stopped(partial(serve_worker, command=[sys.executable, "-m", "tests.support.children"]))
