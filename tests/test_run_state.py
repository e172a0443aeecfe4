"""What outlives a step: folders that appear whole, the clock over sessions, the log after a crash."""

import json
import threading
from pathlib import Path

import pytest

from training.run_state import (
    MetricsLog,
    RunClock,
    checkpoints,
    finite,
    machine_kind,
    prune,
    remove_unfinished,
    shared_whole_folder,
    whole_folder,
    write_json_file,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "result") as staging:
        (staging / "part").mkdir()
        (staging / "part/file").write_text("new")
        assert not (tmp_path / "result").exists()
    assert (tmp_path / "result/part/file").read_text() == "new"
    assert (tmp_path / "result/part/file").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["result"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    (tmp_path / "result/file").write_text("old")

    def fill_the_disk() -> None:
        with whole_folder(tmp_path / "result") as staging:
            (staging / "file").write_text("new")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert (tmp_path / "result/file").read_text() == "old"
    assert names(tmp_path) == ["result"]
    with whole_folder(tmp_path / "result") as staging:
        (staging / "other").write_text("new")
    assert names(tmp_path / "result") == ["other"], "it replaces, it does not add"


def test_a_shared_folder_appears_when_every_process_has_written(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    seen: list[bool] = []

    def write(rank: int) -> None:
        with shared_whole_folder(
            tmp_path / "result", rank == 0, lambda: (barrier.wait(10), None)[1]
        ) as staging:
            (staging / f"part-{rank}").write_text(str(rank))
            seen.append((tmp_path / "result").exists())
        seen.append((tmp_path / "result").exists())

    threads = [threading.Thread(target=write, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [False, False, True, True]
    assert names(tmp_path / "result") == ["part-0", "part-1"]


def test_a_process_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="file system that all processes of the run share"),
        shared_whole_folder(tmp_path / "elsewhere/result", False, lambda: None),
    ):
        pass


def test_what_killed_sessions_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".checkpoint-4.unfinished", ".final.replaced", "checkpoint-2"):
        (tmp_path / name).mkdir()
    (tmp_path / ".record.json.unfinished").write_text("{")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-2"]


def test_checkpoints_are_counted_by_number_and_pruned(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-100", ".checkpoint-200.unfinished", "best"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-10",
        "checkpoint-100",
    ]
    prune(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-100"]
    assert checkpoints(tmp_path / "nowhere") == []


def test_a_checkpoint_that_is_being_pruned_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is killed there has deleted some of its files."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()

    def kill(path: Path, ignore_errors: bool) -> None:
        assert ignore_errors
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.run_state.shutil.rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4"]
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint-4"]


def test_json_holds_no_number_that_json_lacks(tmp_path: Path) -> None:
    write_json_file(tmp_path / "record.json", {"loss": float("nan"), 3: [float("inf"), (1.5, "é")]})
    assert json.loads((tmp_path / "record.json").read_text()) == {"loss": None, "3": [None, [1.5, "é"]]}
    assert names(tmp_path) == ["record.json"]
    assert finite({"a": (1, 2.0)}) == {"a": [1, 2.0]}


def test_the_clock_counts_earlier_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("training.run_state.time.monotonic", lambda: now[0])
    clock = RunClock(used=30.0, limit=60.0)
    now[0] += 15.0
    assert clock.seconds() == 45.0
    assert clock.share() == 0.75
    assert not clock.is_over()
    now[0] += 15.0
    assert clock.is_over()
    assert RunClock().share() == 0.0


def test_the_clock_decides_by_the_reading_that_was_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("training.run_state.time.monotonic", lambda: now[0])
    clock = RunClock(used=30.0, limit=60.0)
    clock.agree(24.0)
    now[0] += 50.0
    assert (clock.reading(), clock.share(), clock.is_over()) == (24.0, 0.4, False)
    assert clock.seconds() == 80.0
    clock.agree(60.0)
    assert clock.is_over()


def test_the_log_drops_lines_of_a_lost_end_and_half_a_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2, "note": float("nan")})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    again = MetricsLog(tmp_path, tensorboard=False, after_step=2)
    assert [entry["step"] for entry in again.entries()] == [1, 2]
    assert again.entries()[0] == {"step": 1, "loss": 0.5, "note": None}
    assert MetricsLog(tmp_path, tensorboard=False).entries() == [], "a new run starts an empty log"


def test_a_log_that_is_being_shortened_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        log.write(step, {"loss": 0.5})

    def kill(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, tensorboard=False, after_step=2)
    assert [entry["step"] for entry in log.entries()] == [1, 2, 3]


def test_numbers_also_go_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, tensorboard=True)
    log.write(5, {"loss": 0.25, "text": "not a number", "flag": True})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 0.25)]


def test_the_machine_is_named() -> None:
    assert {"cpu", "cores", "threads", "gpu", "torch", "transformers"} <= machine_kind().keys()
