"""Whole runs of a tiny recogniser on eight words, in this process."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from tests.word_folders import write_words
from training import run_finetuning
from training.run_finetuning import main
from training.run_state import RunClock
from training.word_trainer import TrainingDivergedError, WordTrainer

pytestmark = pytest.mark.usefixtures("restored_process")

Words = list[tuple[Image.Image, str]]
MODEL = {
    "model_type": "rcmstr",
    "image_size": [32, 64],
    "embedding_sizes": [8, 8],
    "hidden_sizes": [8, 16, 16, 24],
    "depths": [1, 1, 1, 1],
    "head_bilstm_layers": 1,
    "head_hidden_size": 24,
    "max_text_length": 8,
}


@pytest.fixture
def start(tmp_path: Path, eight_words: Words) -> Callable[..., int]:
    """Run with settings that fit a test: `start("name", key=value, …)` writes to the folder of that name."""
    words = write_words(tmp_path / "words", eight_words * 2)
    (tmp_path / "model.json").write_text(json.dumps(MODEL), encoding="utf-8")
    settings = {
        "model": str(tmp_path / "model.json"),
        "charset": "alphanumeric-36",
        "train_sources": {f"folder:{words}": 1},
        "held_out_fraction": 0.2,
        "batch_size": 4,
        "bucket_batches": 2,
        "data_workers": 0,
        "max_steps": 6,
        "save_steps": 2,
        "save_minutes": None,
        "eval_steps": 4,
        "log_steps": 1,
        "ema_decay": 0.9,
        "tensorboard": False,
        "threads": 1,
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")

    def run(name: str, **changes: Any) -> int:
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        return main([str(tmp_path / "settings.yaml"), f"output_dir={tmp_path / name}", *overrides])

    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "model.safetensors"))


def equal(first: Path, second: Path) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (folder / "final" / "training_record.json").read_text(encoding="utf-8")
    )
    return content


class StepClock(RunClock):
    """A clock that moves by one second per update."""

    def __init__(self, used: float = 0.0, limit: float | None = None) -> None:
        super().__init__(used, limit)
        self.now = used

    def seconds(self) -> float:
        return self.now


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[WordTrainer], None]) -> None:
    """Do something before every forward pass of the runs that follow."""
    step = WordTrainer.training_step

    def training_step(self: WordTrainer, *arguments: Any, **settings: Any) -> Any:
        act(self)
        return step(self, *arguments, **settings)

    monkeypatch.setattr(WordTrainer, "training_step", training_step)


def tick(trainer: WordTrainer) -> None:
    """Move the clock by a second."""
    trainer.clock.now += 1  # type: ignore[attr-defined]


def test_a_run_leaves_everything_that_it_promises(
    start: Callable[..., int], tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("run", tensorboard=True, augmentation_strength=0.5) == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "best",
        "checkpoints",
        "final",
        "log.jsonl",
        "tensorboard",
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert not list(folder.rglob("training_args.bin"))
    assert list((folder / "tensorboard").iterdir())
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in losses] == [1, 2, 3, 4, 5, 6]
    assert all(
        {"learning_rate", "grad_norm", "images_per_second", "data_wait"} <= entry.keys() for entry in losses
    )
    assert losses[-1]["images"] == 24
    written = record(folder)
    assert written["steps"] == 6
    assert written["complete"]
    assert written["images_seen"] == 24
    assert written["settings"]["batch_size"] == 4
    (source,) = written["data"]["sources"]
    assert source["trained_on"] + source["held_out"] == source["rows"] == 16
    assert written["data"]["evaluated_words"] == {"words": source["held_out"]}
    assert [entry["step"] for entry in written["evaluations"]] == [4, 6]
    assert written["machine"]["threads"] == 1
    out = capsys.readouterr().out
    assert "words per update: 4 = 4 per batch x 1 batches x 1 processes" in out
    assert "confidence" in out
    reader: Any = pipeline
    for name in ("final", "best"):
        answer = reader("text-recognition", model=str(folder / name))(eight_words[0][0])
        assert set(answer) == {"text", "score"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_crashed_goes_on_to_the_same_weights(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Weights, average, optimizer, schedule, data position: one differing bit would show."""
    assert start("whole") == 0

    def crash(trainer: WordTrainer) -> None:
        if trainer.state.global_step == 5:
            raise OSError("power cut")

    with monkeypatch.context() as patched:
        meanwhile(patched, crash)
        with pytest.raises(OSError, match="power cut"):
            start("broken", data_workers=workers)
    assert start("broken", resume=True, data_workers=workers) == 0
    for folder in ("final", "best", "checkpoints/checkpoint-6"):
        assert equal(tmp_path / "whole" / folder, tmp_path / "broken" / folder), folder
    one, other = record(tmp_path / "whole"), record(tmp_path / "broken")
    assert one["data"]["counts"] == other["data"]["counts"]
    assert one["best"] == other["best"]
    assert [entry["step"] for entry in one["evaluations"]] == [
        entry["step"] for entry in other["evaluations"]
    ]


def test_a_signal_saves_and_stops_and_the_run_goes_on_from_there(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start("whole", save_steps=None) == 0

    def interrupt(trainer: WordTrainer) -> None:
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        meanwhile(patched, interrupt)
        assert start("stopped", save_steps=None) == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert not (tmp_path / "stopped" / "final").exists()
    assert start("stopped", save_steps=None, resume=True) == 0
    assert equal(tmp_path / "whole" / "final", tmp_path / "stopped" / "final")


def test_a_finished_run_that_is_resumed_changes_nothing(start: Callable[..., int], tmp_path: Path) -> None:
    assert start("run") == 0
    before = tensors(tmp_path / "run" / "final")
    assert start("run", resume=True) == 0
    after = tensors(tmp_path / "run" / "final")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert record(tmp_path / "run")["steps"] == 6


def test_a_new_run_does_not_write_over_an_old_one(start: Callable[..., int]) -> None:
    assert start("run") == 0
    with pytest.raises(ValueError, match="holds a run with checkpoint checkpoint-6; set resume=true"):
        start("run")


def test_by_the_clock_the_rate_falls_to_its_end_and_earlier_sessions_count(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_finetuning, "RunClock", StepClock)

    def tick_and_interrupt(trainer: WordTrainer) -> None:
        tick(trainer)
        if trainer.state.global_step == 5 and not trainer.arguments.run.resume:
            os.kill(os.getpid(), signal.SIGTERM)

    meanwhile(monkeypatch, tick_and_interrupt)
    by_time = {
        "schedule_by": "time",
        "max_steps": None,
        "max_minutes": 0.2,
        "schedule": "linear",
        "warmup": 0.0,
    }
    assert start("run", learning_rate=0.012, **by_time) == 128 + signal.SIGTERM
    assert start("run", learning_rate=0.012, resume=True, **by_time) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate"] for entry in log if "loss" in entry]
    # 12 seconds at one second per update: the rate that update n uses is set after update n - 1.
    assert rates == pytest.approx([0.012 - 0.001 * n for n in range(12)])
    assert record(tmp_path / "run")["steps"] == 12
    assert record(tmp_path / "run")["complete"]


def test_a_run_cut_short_by_its_time_says_so_and_goes_on_with_more(
    start: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert start("whole") == 0
    monkeypatch.setattr(run_finetuning, "RunClock", StepClock)
    meanwhile(monkeypatch, tick)
    assert start("short", max_minutes=0.05) == 0
    assert record(tmp_path / "short")["steps"] == 3
    assert not record(tmp_path / "short")["complete"]
    assert "larger max_minutes" in capsys.readouterr().out
    assert start("short", max_minutes=1, resume=True) == 0
    assert record(tmp_path / "short")["complete"]
    assert equal(tmp_path / "whole" / "final", tmp_path / "short" / "final")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_batch(
    start: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = WordTrainer.compute_loss

    def broken(self: WordTrainer, *arguments: Any, **settings: Any) -> Any:
        loss: Any = compute(self, *arguments, **settings)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(WordTrainer, "compute_loss", broken)
    with pytest.raises(TrainingDivergedError, match="the loss is nan at update 4, learning rate .*lower"):
        start("run")
    batch = load_file(str(tmp_path / "run" / "diverged-batch-3.safetensors"))
    assert batch["pixel_values"].shape == (4, 3, 32, 64)
    assert batch["labels"].shape[0] == 4
    # The last checkpoint is from before.
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-2"]


def test_a_frozen_encoder_keeps_weights_and_statistics(start: Callable[..., int], tmp_path: Path) -> None:
    assert start("first", max_steps=2, ema_decay=0) == 0
    source = str(tmp_path / "first" / "final")
    assert start("frozen", model=source, charset=None, max_steps=2, ema_decay=0, freeze_encoder=True) == 0
    before, after = tensors(tmp_path / "first" / "final"), tensors(tmp_path / "frozen" / "final")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert start("moving", model=source, charset=None, max_steps=2, ema_decay=0) == 0
    moved = tensors(tmp_path / "moving" / "final")
    assert any(not torch.equal(before[name], moved[name]) for name in before if name.startswith("model."))


def test_batchnorm_of_a_frozen_encoder_may_go_on_learning(start: Callable[..., int], tmp_path: Path) -> None:
    assert start("run", max_steps=2, ema_decay=0, freeze_encoder=True, freeze_encoder_batchnorm=False) == 0
    after = tensors(tmp_path / "run" / "final")
    means = [tensor for name, tensor in after.items() if name.endswith("running_mean")]
    assert means
    assert all(bool(mean.any()) for mean in means)


def test_half_precision_is_stored_small_and_loads_in_single(
    start: Callable[..., int], tmp_path: Path
) -> None:
    assert start("single") == 0
    assert start("half", half_precision=True) == 0
    single, half = tensors(tmp_path / "single" / "final"), tensors(tmp_path / "half" / "final")
    for name, tensor in single.items():
        assert torch.equal(half[name], tensor.half() if tensor.is_floating_point() else tensor)
    sizes = [(tmp_path / name / "final" / "model.safetensors").stat().st_size for name in ("half", "single")]
    assert sizes[0] < 0.75 * sizes[1]
    reader: Any = pipeline
    loaded = reader("text-recognition", model=str(tmp_path / "half" / "final")).model
    assert loaded.dtype == torch.float32


def test_the_average_is_what_is_kept_and_the_weights_are_what_goes_on(
    start: Callable[..., int], tmp_path: Path
) -> None:
    assert start("run") == 0
    average = load_file(str(tmp_path / "run" / "checkpoints" / "checkpoint-6" / "average.safetensors"))
    final = tensors(tmp_path / "run" / "final")
    own = tensors(tmp_path / "run" / "checkpoints" / "checkpoint-6")
    name = "head.classifier.weight"
    assert torch.equal(average[name], final[name])
    assert not torch.equal(own[name], final[name])


def test_an_attention_recogniser_is_trained_by_the_same_command(
    start: Callable[..., int], tmp_path: Path, eight_words: Words
) -> None:
    settings = {
        "decoder_type": "attention",
        "encoder_type": "vit",
        "hidden_size": 32,
        "num_attention_heads": 2,
    }
    settings |= {"num_hidden_layers": 1, "intermediate_size": 32}
    assert start("run", model_settings=settings, max_steps=3) == 0
    reader: Any = pipeline
    answer = reader("text-recognition", model=str(tmp_path / "run" / "final"))(eight_words[0][0])
    assert set(answer) == {"text", "score"}


@pytest.mark.slow
def test_eight_words_are_learned_by_heart(
    start: Callable[..., int], tmp_path: Path, eight_words: Words
) -> None:
    settings: dict[str, Any] = {
        "augmentation_strength": 0.0,
        "held_out_fraction": 0.0,
        "batch_size": 8,
        "max_steps": 250,
    }
    settings |= {
        "learning_rate": 0.01,
        "eval_steps": None,
        "save_steps": None,
        "ema_decay": 0,
        "log_steps": 50,
    }
    assert start("run", **settings) == 0
    reader: Any = pipeline
    answers = reader("text-recognition", model=str(tmp_path / "run" / "final"))(
        [image for image, _ in eight_words]
    )
    assert [answer["text"] for answer in answers] == [text for _, text in eight_words]
