"""Programs that a test starts: they end with it, whatever they and their children do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 240.0


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_program(
    command: Sequence[str],
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> Ended:
    """Run a program to its end; `env` adds to the environment.

    Raises:
        subprocess.TimeoutExpired: after `limit_s` seconds, with what it wrote, everything that it started
            being killed.
    """
    return run_programs([command], cwd, env, limit_s)[0]


def run_programs(
    commands: Sequence[Sequence[str]],
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> list[Ended]:
    """Run programs side by side, as `run_program` runs one.

    They write to files: the end of a pipe waits for every child that holds it, also for those that outlive
    a killed parent.
    """
    with contextlib.ExitStack() as stack:
        started = []
        for command in commands:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdout=files[0],
                stderr=files[1],
                start_new_session=True,
            )
            stack.callback(_kill, process)
            started.append((process, files))

        def ended(number: int) -> Ended:
            process, files = started[number]
            texts = []
            for file in files:
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
            return Ended(process.returncode, *texts)

        for process, _ in started:
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired as error:
                told = [ended(number) for number in range(len(started))]
                error.output = "\n".join(one.stdout for one in told).encode()
                error.stderr = "\n".join(one.stderr for one in told).encode()
                raise
        return [ended(number) for number in range(len(started))]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what is left of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
