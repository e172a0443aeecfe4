"""What outlives a step: the clock of a run, folders that appear whole or not at all, and the metrics log."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_PATTERN = re.compile(r"^checkpoint-(\d+)$")


class RunClock:
    """Seconds that a run has used, those of earlier sessions included.

    Args:
        used: seconds of earlier sessions.
        limit: seconds that the run may use, or None.
    """

    def __init__(self, used: float = 0.0, limit: float | None = None) -> None:
        self.used = used
        self.limit = limit
        self._start = time.monotonic()
        self._agreed: float | None = None

    def seconds(self) -> float:
        """Seconds used so far."""
        return self.used + time.monotonic() - self._start

    def agree(self, seconds: float) -> None:
        """Decide by this reading until the next one: several processes must decide alike."""
        self._agreed = seconds

    def reading(self) -> float:
        """The seconds that decisions go by: those agreed on, or those used so far."""
        return self.seconds() if self._agreed is None else self._agreed

    def share(self) -> float:
        """Share of the limit that is used up."""
        return 0.0 if self.limit is None else self.reading() / self.limit

    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.reading() >= self.limit


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success it takes the place of `path` at once, otherwise nothing is left.

    Files are flushed to the disk before the renaming, so a power cut leaves the old folder or the new one,
    never a half.
    """
    staging = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for file in [*staging.rglob("*"), staging]:
            if file.is_file():
                file.chmod(0o644)
            _flush(file)
        replaced = path.with_name(f".{path.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            path.rename(replaced)
        staging.rename(path)
        _flush(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def shared_whole_folder(path: Path, is_main: bool, wait: Callable[[], None]) -> Iterator[Path]:
    """`whole_folder` that several processes fill together; it appears when all of them have written.

    Args:
        path: of the folder, on a file system that all processes see.
        is_main: True on exactly one process, which makes and renames the folder.
        wait: returns once every process has called it.

    Raises:
        ValueError: when a process does not see the folder that the main one made.
    """
    if is_main:
        with whole_folder(path) as staging:
            wait()  # it exists
            yield staging
            wait()  # all have written
    else:
        wait()
        staging = path.with_name(f".{path.name}.unfinished")
        if not staging.is_dir():
            raise ValueError(f"{path.parent} must lie on a file system that all processes of the run share.")
        yield staging
        wait()
    wait()  # it has its name


def remove_unfinished(folder: Path) -> None:
    """Delete what sessions that were killed while they wrote have left in a folder."""
    for path in [*folder.glob(".*.unfinished"), *folder.glob(".*.replaced")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json_file(path: Path, content: Any) -> None:
    """Write a JSON file that appears whole or not at all; not-a-number and infinity become null."""
    staging = path.with_name(f".{path.name}.unfinished")
    staging.write_text(json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _flush(staging)
    staging.replace(path)


def finite(value: Any) -> Any:
    """The same value with every float that JSON cannot hold as None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT_PATTERN.match(path.name))
    ]
    return [path for _, path in sorted(found)]


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in checkpoints(folder)[:-keep]:
        # A session that is killed here must not leave half a checkpoint under the name of a whole one.
        unnamed = path.with_name(f".{path.name}.replaced")
        shutil.rmtree(unnamed, ignore_errors=True)
        path.rename(unnamed)
        shutil.rmtree(unnamed, ignore_errors=True)


class MetricsLog:
    """Numbers over a run: one JSON object per line in `log.jsonl`, and TensorBoard files.

    Args:
        folder: of the run.
        tensorboard: also write TensorBoard files.
        after_step: lines of later steps are dropped: they belong to a session whose end was lost.

    Raises:
        ValueError: when TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool, after_step: int = 0) -> None:
        self.path = folder / "log.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if (entry := _parse_line(line)) and 0 < entry["step"] <= after_step]
        # Not in place: a session that is killed here must not lose the lines of the earlier ones.
        staging = self.path.with_name(f".{self.path.name}.unfinished")
        staging.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        staging.replace(self.path)
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "TensorBoard is not installed: `pip install tensorboard`, or `tensorboard=false`."
                ) from error
            self.writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=after_step + 1 if after_step else None
            )

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add one line; numbers also go to TensorBoard."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite({"step": step, **values}), ensure_ascii=False) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self.writer.add_scalar(name, value, step)

    def entries(self) -> list[dict[str, Any]]:
        """All lines, oldest first."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def close(self) -> None:
        """Flush and close the TensorBoard files."""
        if self.writer is not None:
            self.writer.close()


def machine_kind() -> dict[str, Any]:
    """Processor model, cores, GPU and library versions, as written beside every result."""
    import transformers

    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = re.findall(
            r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _parse_line(line: str) -> dict[str, Any] | None:
    """One log line, or None for one that a crash cut short."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _flush(path: Path) -> None:
    """Have the operating system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
