"""The end of a process that took part in collectives, against worker threads that let go of a tensor late."""

import sys
from pathlib import Path

import pytest

from tests.programs import run_program
from training.process_exit import CANNOT_FLUSH

# The worker of an `all_reduce` whose tensor nobody else holds must take the interpreter's lock to free it,
# and does not get it before the end. With `sys.exit` this program ends with SIGABRT.
LATE_WORKER = """
import sys
import torch
import torch.distributed as dist
from training.process_exit import leave_process

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
kept = dist.group.WORLD
sys.setswitchinterval(1000)
dist.all_reduce(torch.ones(1000), async_op=True)
dist.destroy_process_group()
leave_process(int(sys.argv[2]))
"""
WITH_EXIT_FUNCTION = """
import atexit
from training.process_exit import leave_process

atexit.register(print, "exit function")
print("not flushed yet", end=" ")
try:
    leave_process(3)
finally:
    print("never reached")
"""
BUFFERED = {"PYTHONUNBUFFERED": ""}
SIGNALLED_AT_THE_END = """
import atexit, os, signal
from training.process_exit import leave_process

for number in (signal.SIGTERM, signal.SIGINT):
    atexit.register(os.kill, os.getpid(), number)
leave_process(5)
"""
CLOSED_STREAM = """
import os, sys
from training.process_exit import leave_process

print("lost")
os.close(1)
leave_process(int(sys.argv[1]))
"""


@pytest.mark.parametrize("status", [0, 143])
def test_a_worker_that_is_still_freeing_a_tensor_changes_no_status(tmp_path: Path, status: int) -> None:
    ended = run_program([sys.executable, "-c", LATE_WORKER, str(tmp_path / "store"), str(status)])
    assert ended.returncode == status, ended.stderr


def test_exit_functions_run_and_what_was_printed_is_written() -> None:
    ended = run_program([sys.executable, "-c", WITH_EXIT_FUNCTION], env=BUFFERED)
    assert (ended.returncode, ended.stdout) == (3, "not flushed yet exit function\n")


def test_a_signal_that_comes_last_changes_no_status() -> None:
    assert run_program([sys.executable, "-c", SIGNALLED_AT_THE_END]).returncode == 5


@pytest.mark.parametrize(("status", "told"), [(0, CANNOT_FLUSH), (143, 143)])
def test_lines_that_cannot_be_written_are_told_by_the_status(status: int, told: int) -> None:
    ended = run_program([sys.executable, "-c", CLOSED_STREAM, str(status)], env=BUFFERED)
    assert ended.returncode == told


@pytest.mark.parametrize("command", ["run_pretraining", "run_finetuning"])
def test_the_commands_end_this_way_also_with_an_error(command: str) -> None:
    """A setting that cannot be is told in one line, without a traceback."""
    ended = run_program([sys.executable, "-m", f"training.{command}", "missing.yaml"])
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: the settings file 'missing.yaml' does not exist."
    assert "Traceback" not in ended.stderr
