"""A child process for tests of the worker. The parameters of a task say what it does.

do: "succeed" (the default), "fail", "raise", "hang" (native code that no signal handler can interrupt), "exit",
"be killed", "print", "large" (a large result). seconds: how long to work first. failures: the number of first
attempts that end with an error. pid_file: where "hang" writes the ids of its processes.

`together` in a record is the number of tasks in its request.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from spheroseg.errors import BadImage
from spheroseg.messages import TaskNew
from spheroseg.worker.child_server import IndexedResult, one_by_one, serve


def work(task: TaskNew) -> dict[str, Any]:
    do = task.parameters.get("do", "succeed")
    time.sleep(task.parameters.get("seconds", 0.0))
    if task.attempt <= task.parameters.get("failures", 0):
        raise RuntimeError("not the first time")
    if do == "fail":
        raise BadImage("not an image")
    if do == "raise":
        raise RuntimeError("a bug")
    if do == "hang":
        import hashlib

        if pid_file := task.parameters.get("pid_file"):
            # A helper process, as a library may start one.
            helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(pid_file, "w") as file:
                file.write(f"{os.getpid()} {helper.pid}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
    if do == "exit":
        os._exit(3)
    if do == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "print":
        print("a library prints to stdout")
        os.write(1, b"and native code too")
    if do == "large":
        return {"outline": [[n / 7, n / 3] for n in range(50_000)]}
    return {"pid": os.getpid(), "done": do, "attempt": task.attempt}


def work_together(tasks: Sequence[TaskNew]) -> Iterable[IndexedResult]:
    return one_by_one(lambda task: {**work(task), "together": len(tasks)})(tasks)


if __name__ == "__main__":
    if "--unusable" in sys.argv:
        from spheroseg.errors import ModelUnusable

        def load() -> Any:
            raise ModelUnusable("there is no model 'x'")

        serve(load)
    else:
        serve(lambda: work_together)
