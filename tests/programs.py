"""Programs that a test starts: they end with it, whatever they and their children do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
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


def run_processes(program: Sequence[str], nodes: int = 1) -> list[Ended]:
    """Run a program in two processes of one thread each, on one node or on two that meet at a port.

    Args:
        program: what follows `torchrun`'s own options: a script or `-m MODULE`, and its arguments.
        nodes: 1 or 2.

    Returns:
        How the launcher of each node ended.
    """
    port = _free_port()
    commands = [
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={nodes}",
            f"--node_rank={node}",
            f"--nproc_per_node={2 // nodes}",
            "--master_addr=127.0.0.1",
            f"--master_port={port}",
            *program,
        ]
        for node in range(nodes)
    ]
    return run_programs(commands, env={"OMP_NUM_THREADS": "1"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what is left of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
