"""Fine-tuning runs in processes of their own: one that fails or dies leaves the others alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.programs import ROOT
from tests.word_folders import SMALLEST_MODEL, write_words
from training import point_training
from training.point_training import PointProgress, PointRun, seconds_per_update, time_in_words, train_points

Words = list[tuple[Image.Image, str]]


@pytest.fixture
def make(tmp_path: Path, eight_words: Words) -> Callable[..., PointRun]:
    """Make a tiny run: `make("name", key=value, …)`."""
    words = write_words(tmp_path / "words", eight_words)
    (tmp_path / "model.json").write_text(json.dumps(SMALLEST_MODEL), encoding="utf-8")

    def run(name: str, **changes: Any) -> PointRun:
        settings = {
            "output_dir": str(tmp_path / name),
            "model": str(tmp_path / "model.json"),
            "charset": "alphanumeric-36",
            "train_sources": {f"folder:{words}": 1},
            "batch_size": 4,
            "bucket_batches": 1,
            "data_workers": 0,
            "max_steps": 2,
            "log_steps": 1,
            "threads": 1,
            "tensorboard": False,
        }
        return PointRun(name, tmp_path / name, {**settings, **changes}, {}, tmp_path / f"{name}.json")

    return run


def trained(run: PointRun) -> str:
    """What `finish` is given: a run whose record is there."""
    return f"{json.loads((run.place / 'final/training_record.json').read_text())['steps']} updates"


@pytest.mark.slow
def test_runs_that_fail_or_are_killed_are_named_and_the_others_are_trained(
    make: Callable[..., PointRun], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        make("wrong", label_count=100),
        make("killed", max_steps=1_000_000, save_minutes=None),
        make("good"),
        make("unscored"),
    ]
    start = point_training.start_point

    def start_and_kill(run: PointRun) -> Any:
        process, receiver = start(run)
        if run.name == "killed":
            os.kill(process.pid or 0, signal.SIGKILL)
        return process, receiver

    def finish(run: PointRun) -> str:
        if run.name == "unscored":
            raise ValueError("nothing to score")
        return trained(run)

    monkeypatch.setattr(point_training, "start_point", start_and_kill)
    monkeypatch.setattr(point_training, "POLL_S", 0.1)
    failed = {run.name: reason for run, reason in train_points(runs, 5, 2, finish)}
    assert failed.keys() == {"wrong", "killed", "unscored"}
    assert "`label_count=100` asks for more words than the" in failed["wrong"]
    assert "signal 9" in failed["killed"]
    assert failed["unscored"] == "nothing to score"
    said = capsys.readouterr().err
    assert "good: 2 updates" in said
    assert "wrong: failed: source" in said
    assert "to go, until" in said
    assert "`label_count=100`" in runs[0].output.read_text(), "with where it came from"
    assert "final model" in runs[2].output.read_text()


@pytest.mark.slow
def test_a_stop_has_runs_save_and_they_go_on_from_there(
    make: Callable[..., PointRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM does what Ctrl-C does; the update that was stopped at is the first of what is left."""
    monkeypatch.setattr(point_training, "POLL_S", 0.1)
    long = make("run", max_steps=100_000, save_minutes=None)

    def stop() -> None:
        while (
            not (long.place / "log.jsonl").is_file() or '"loss"' not in (long.place / "log.jsonl").read_text()
        ):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train_points([long], 1, 1, trained)
    assert signal.getsignal(signal.SIGTERM) == before
    (checkpoint,) = (long.place / "checkpoints").iterdir()
    step = int(checkpoint.name.split("-")[1])
    short = make("run", max_steps=step + 1, save_minutes=None)
    assert train_points([short], 1, 1, trained) == []
    assert f"resuming at update {step} from" in long.output.read_text()


@pytest.mark.slow
def test_a_run_ends_with_the_process_that_started_it(make: Callable[..., PointRun], tmp_path: Path) -> None:
    """Even when that is killed: two sessions would write into one folder."""
    run = make("orphan", max_steps=1_000_000, save_minutes=None)
    script = tmp_path / "parent.py"
    script.write_text(
        "from pathlib import Path\n"
        "from training.point_training import PointRun, start_point\n"
        "if __name__ == '__main__':\n"
        f"    run = PointRun('orphan', Path({str(run.place)!r}), {run.settings!r}, {{}}, Path('unused'))\n"
        "    process, receiver = start_point(run)\n"
        "    print(process.pid, flush=True)\n"
        "    process.join()\n"
    )
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        while not (run.place / "log.jsonl").is_file():
            time.sleep(0.05)
        parent.kill()
    # The limit of the test ends a wait for a process that never does.
    while is_running(child):
        time.sleep(0.05)


def is_running(number: int) -> bool:
    """Whether there is a process that is not only waiting to be collected."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_progress_and_speed_are_those_of_the_logs(make: Callable[..., PointRun]) -> None:
    one, other = make("one", max_steps=100), make("other", max_steps=100)
    progress = PointProgress(200, jobs=2)
    assert progress.updates([one, other]) == 200
    assert seconds_per_update([one, other]) is None
    one.place.mkdir()
    lines = [{"step": 10, "loss": 1.0, "minutes": 0.5}, {"step": 40, "loss": 1.0, "minutes": 1.5}]
    text = "\n".join(map(json.dumps, [*lines, {"step": 40, "eval_cer": 1.0}])) + '\n{"step": 50, "lo'
    (one.place / "log.jsonl").write_text(text)
    assert progress.updates([one, other]) == 240
    assert seconds_per_update([one, other]) == pytest.approx(2.0), "60 seconds for 30 updates"
    words = progress.words([one], 1800)
    assert words is not None
    assert "about 30 min to go" in words
    assert "(1,800 updates x 2 s / 2 side by side)" in words
    assert progress.words([one], 1700) is None, "said once"


def test_the_first_run_that_ends_tells_the_time_of_the_others(
    make: Callable[..., PointRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(point_training.time, "monotonic", lambda: now[0])
    progress = PointProgress(0, jobs=2)
    one, other = make("one"), make("other")
    progress.begin(one)
    progress.begin(other)
    now[0] = 600.0
    progress.end(one, left=19)
    assert progress.done == 2
    words = progress.words([], 100)
    assert words is not None
    assert "about 1 h 35 min to go" in words
    assert "(19 points x 600 s / 2 side by side)" in words
    now[0] = 700.0
    progress.end(other, left=18)
    assert progress.words([], 100) is None


def test_time_is_said_in_minutes_and_hours() -> None:
    assert "about 1 min to go" in time_in_words(3, "", 1)
    assert "about 59 min to go" in time_in_words(59 * 60 + 10, "", 1)
    assert "about 2 h 05 min to go" in time_in_words(2 * 3600 + 5 * 60, "", 1)
