"""A worker's end, where its supervisor has gone without a word.

Two ways, since neither does everywhere: the kernel's signal to the children of a process that dies (Linux), and a pipe
whose other end only the supervisor holds.
"""

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def watch(pipe: int, stop_within_s: float) -> None:
    """Send this process SIGTERM once the supervisor has gone, and end it where that has not done it in time.

    `pipe` is the reading end. The watch is a thread: it also ends a process whose event loop is stuck.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_end_with, args=(pipe, stop_within_s), name="cornet-lifeline", daemon=True).start()


def _end_with(pipe: int, stop_within_s: float) -> None:
    while os.read(pipe, 1):
        pass  # nobody writes; it returns when the last writer has gone
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(stop_within_s)
    os._exit(1)
