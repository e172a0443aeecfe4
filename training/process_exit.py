"""How a process that took part in collectives ends: with the status that its work earned.

Worker threads of gloo release a collective's tensors after the waiting process has gone on, and need the
interpreter's lock for it. One that asks for the lock while the interpreter is being taken down ends the
process with SIGABRT ("terminate called without an active exception") although the run is whole, and the
launcher then kills the others. `destroy_process_group` joins the workers only where nobody else keeps the
group, and DeepSpeed keeps it. See https://github.com/pytorch/pytorch/pull/179291.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

# What the interpreter itself ends with when the last lines cannot be written, as to a closed pipe.
CANNOT_FLUSH = 120


def leave_process(status: int) -> NoReturn:
    """Run the exit functions, flush the streams and end with `status` (0 to 255); nothing is taken down.

    For the end of a program: callers, `finally` clauses and other threads do not go on.
    """
    # All is done: a signal, as launchers send to those that are left, could only change the status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or CANNOT_FLUSH
    os._exit(status)
