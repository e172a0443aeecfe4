"""Fine-tuning runs side by side, each a process of its own, under one progress bar with its end in sight.

A run that fails leaves the others alone. Ctrl-C and SIGTERM have every run save and stop; a process that
loses its parent ends at once, so that nothing goes on unseen and writes beside a later session.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.utils import tqdm

from training.run_finetuning import main as run_finetuning

# A fork server imports the libraries once, and every point begins as a fresh copy of it.
START_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
POLL_S = 1.0
SAVE_S = 60.0


@dataclass(frozen=True)
class PointRun:
    """One fine-tuning run.

    Args:
        name: for people.
        place: its folder.
        settings: flat settings of `run_finetuning`; they must have `max_steps`.
        facts: what its result says it is.
        result: file that exists once the run is finished.
    """

    name: str
    place: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    result: Path

    @property
    def output(self) -> Path:
        """What the run printed."""
        return self.place / "output.txt"

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return int(self.settings["max_steps"])


def train_points(
    runs: Sequence[PointRun], total: int, jobs: int, finish: Callable[[PointRun], str]
) -> list[tuple[PointRun, str]]:
    """Train runs, `jobs` of them side by side, in their order.

    Args:
        runs: those that are left.
        total: points in all; the bar shows those that are not left as done.
        jobs: processes.
        finish: called with each run that was trained, in this process; its answer is printed.

    Returns:
        Runs that failed, each with the reason.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when all runs have saved and ended.
    """
    waiting, failed = deque(runs), []
    running: dict[BaseProcess, tuple[PointRun, Connection]] = {}
    per_point = max((run.updates for run in runs), default=0)
    done = (total - len(runs)) * per_point
    # In a file, where lines stay, fewer of them.
    interval = POLL_S if sys.stderr.isatty() else 60 * POLL_S
    with (
        _stopped_by_sigterm(),
        tqdm(total=total * per_point, initial=done, unit="update", mininterval=interval) as bar,
    ):
        progress = PointProgress(done, jobs)
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    process, receiver = start_point(run)
                    running[process] = (run, receiver)
                    progress.begin(run)
                    bar.set_postfix_str(run.name, refresh=False)
                wait([process.sentinel for process in running], POLL_S)
                for process in [process for process in running if not process.is_alive()]:
                    run, receiver = running.pop(process)
                    said, reason = _outcome(run, process, receiver, finish)
                    if reason is not None:
                        failed.append((run, reason))
                    bar.write(f"{run.name}: {said}", sys.stderr)
                    progress.end(run, len(waiting) + len(running))
                under_way = [run for run, _ in running.values()]
                bar.update(progress.updates(under_way) - bar.n)
                if words := progress.words(under_way, bar.total - bar.n):
                    bar.write(words, sys.stderr)
        finally:
            _stop(list(running))
    return failed


class PointProgress:
    """How far runs are, from their logs, and how long the rest takes: said early, and again after one run.

    Args:
        done: updates of the runs that have ended.
        jobs: runs side by side.
    """

    def __init__(self, done: int, jobs: int) -> None:
        self.done = done
        self.jobs = jobs
        self._begun: dict[str, float] = {}
        self._early_said = False
        self._first_said: str | None = None

    def begin(self, run: PointRun) -> None:
        """Start the watch of a run."""
        self._begun[run.name] = time.monotonic()

    def end(self, run: PointRun, left: int) -> None:
        """Count a run as done; the first one tells how long the `left` others take."""
        self.done += run.updates
        if self._first_said is None:
            seconds = time.monotonic() - self._begun[run.name]
            product = f"{left} points x {seconds:.0f} s"
            self._first_said = time_in_words(seconds * left / self.jobs, product, self.jobs) if left else ""
        del self._begun[run.name]

    def updates(self, running: Sequence[PointRun]) -> int:
        """Updates of all runs, those under way as far as their logs go."""
        return self.done + sum(int(entries[-1]["step"]) for run in running if (entries := _losses(run)))

    def words(self, running: Sequence[PointRun], left: int) -> str | None:
        """What is to be said now about the time: at first from the speed of the `left` updates."""
        if self._first_said:
            said, self._first_said, self._early_said = self._first_said, "", True
            return said
        seconds = None if self._early_said else seconds_per_update(running)
        if seconds is None:
            return None
        self._early_said = True
        return time_in_words(left * seconds / self.jobs, f"{left:,} updates x {seconds:.2g} s", self.jobs)


def seconds_per_update(running: Sequence[PointRun]) -> float | None:
    """Mean over the runs under way that have logged twice; None before."""
    rates = []
    for run in running:
        entries = _losses(run)
        if len(entries) >= 2:
            steps = entries[-1]["step"] - entries[0]["step"]
            rates.append(60 * (entries[-1]["minutes"] - entries[0]["minutes"]) / steps)
    return sum(rates) / len(rates) if rates else None


def time_in_words(seconds: float, product: str, jobs: int) -> str:
    """Say how long the rest takes, until when, and from what it was reckoned."""
    end = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    about = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
    return (
        f"about {about} to go, until {end} ({product} / {jobs} side by side). "
        "Ctrl-C saves and stops; the same command goes on."
    )


def start_point(run: PointRun) -> tuple[BaseProcess, Connection]:
    """Start one run in a process; gives it, and where the reason comes from if it fails."""
    run.place.mkdir(parents=True, exist_ok=True)
    file = run.place / "settings.yaml"
    file.write_text(yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    context: Any = get_context(START_METHOD)
    context.set_forkserver_preload(["training.run_finetuning"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=train_point, args=(str(file), str(run.output), sender), name=run.name)
    process.start()
    sender.close()
    return process, receiver


def train_point(settings_file: str, output: str, sender: Connection) -> None:
    """Fine-tune as a settings file says, in a process of its own.

    Args:
        settings_file: YAML file of `run_finetuning`.
        output: file that gets what the run prints.
        sender: told why, when the run fails.
    """
    # Ctrl-C in a terminal reaches all processes of a group; the parent decides for this one.
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Below Python: a library's log goes to the stream that was there when it was imported.
    with open(output, "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        status = run_finetuning([settings_file, "resume=true"])
    except Exception as error:
        traceback.print_exc()
        message = " ".join(str(error).split())
        sender.send(message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}")
        status = 1
    sys.exit(status)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(
    run: PointRun, process: BaseProcess, receiver: Connection, finish: Callable[[PointRun], str]
) -> tuple[str, str | None]:
    """What to say of an ended run, and why it failed or None."""
    reason = _end_of(process, receiver)
    if reason is None:
        try:
            return finish(run), None
        except (OSError, ValueError) as error:
            reason = str(error)
    return f"failed: {reason}", reason


def _end_of(process: BaseProcess, receiver: Connection) -> str | None:
    """Why an ended process failed, or None."""
    process.join()
    status = process.exitcode
    said = None
    with contextlib.suppress(EOFError), receiver:
        said = receiver.recv() if receiver.poll() else None
    if status == 0:
        return None
    if status is not None and (status < 0 or status > 128):
        number = -status if status < 0 else status - 128
        return f"its process was ended by signal {number}" + (" (out of memory?)" if number == 9 else "")
    return said or f"its process ended with status {status}"


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Have processes save and end; end those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(SAVE_S)
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Inside the context SIGTERM does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _losses(run: PointRun) -> list[dict[str, Any]]:
    """The lines of a run's log that are updates."""
    path = run.place / "log.jsonl"
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the run may be writing its last line
            entry = json.loads(line)
            if "loss" in entry:
                entries.append(entry)
    return entries
