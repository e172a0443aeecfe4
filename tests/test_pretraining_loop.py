"""The loop's own decisions: rates, precision, what is due. Whole runs are in `test_run_pretraining`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.arguments import build_grouped_arguments
from training.objectives import Objective, Progress
from training.pretraining_arguments import PretrainingArguments, PretrainingOptimisationArguments
from training.pretraining_checkpoint import RunProgress
from training.pretraining_loop import PretrainingLoop, autocast, learning_rate_at
from training.word_trainer import TrainingDivergedError


class Sum(Objective):
    """loss = mean of weight · batch; counts what the loop asks for."""

    num_views = 1
    loss_names = ("loss",)

    def __init__(self) -> None:
        self.updates: list[Progress] = []

    def inputs(self, batch: dict[str, Tensor], progress: Progress) -> dict[str, Any]:
        return {"values": batch["pixel_values"]}

    def after_step(self, outputs: Any, progress: Progress) -> None:
        self.updates.append(progress)

    def statistics(self, outputs: Any) -> dict[str, float]:
        return {"state": float(len(self.updates))}

    def warnings(self, statistics: dict[str, float]) -> list[str]:
        return [f"it shrinks ({statistics['state']})"] if statistics["state"] != 3 else []


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, values: Tensor) -> Any:
        return SimpleNamespace(loss=(self.weight * values).mean())


class Batches:
    """Batches 1, 2, 3, … of two numbers each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Any:
        number = 0
        while True:
            number += 1
            yield {"pixel_values": torch.full((2,), float(number))}

    def take_wait(self) -> float:
        return 0.0


def make_loop(tmp_path: Path, **settings: Any) -> tuple[PretrainingLoop, Weight, Sum]:
    values = {
        "train_sources": {"folder:x": 1},
        "output_dir": str(tmp_path),
        "model": "x",
        "log_steps": 1,
        "save_minutes": None,
    }
    arguments = build_grouped_arguments(values | settings, PretrainingArguments)
    steps = arguments.optimisation.gradient_accumulation_steps
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
    model, objective = Weight(), Sum()
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=1.0))
    batches: Any = Batches()
    progress = RunProgress(words_per_update=2 * steps)
    loop = PretrainingLoop(arguments, accelerator, model, optimizer, objective, batches, None, progress)
    loop.save = lambda: tmp_path  # type: ignore[method-assign]
    return loop, model, objective


def test_an_update_is_the_mean_gradient_of_its_batches(tmp_path: Path) -> None:
    loop, model, objective = make_loop(
        tmp_path, gradient_accumulation_steps=2, max_steps=2, learning_rate=0.1, schedule="constant"
    )
    assert loop.run()
    # Batches 1 and 2, then 3 and 4: gradients 1.5 and 3.5 at rate 0.1.
    assert model.weight.item() == pytest.approx(2.0 - 0.15 - 0.35)
    assert [progress.update for progress in objective.updates] == [0, 1]
    assert (loop.progress.step, loop.progress.images) == (2, 8)


def test_a_long_gradient_is_cut_and_its_length_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop, model, _ = make_loop(
        tmp_path, max_steps=3, learning_rate=0.1, schedule="constant", max_grad_norm=1.5
    )
    loop.run()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * (1 + 1.5 + 1.5), abs=1e-5)
    lines = [line for line in capsys.readouterr().out.splitlines() if "gradient_norm" in line]
    assert [line.split("gradient_norm ")[1].split()[0] for line in lines] == ["1", "2", "3"]


def test_a_warning_is_said_once_until_it_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop, _, _ = make_loop(tmp_path, max_steps=5)
    loop.run()
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert lines == ["step 1  warning: it shrinks (1.0)", "step 4  warning: it shrinks (4.0)"]


def test_probe_picture_and_saves_come_when_they_are_due(tmp_path: Path) -> None:
    loop, _, _ = make_loop(tmp_path, max_steps=7, probe_steps=3, picture_steps=2, save_steps=5)
    called: list[tuple[str, int]] = []
    loop.probe = lambda: called.append(("probe", loop.progress.step)) or {}  # type: ignore[func-returns-value]
    loop.picture = lambda outputs, batch, step: called.append(("picture", step))
    loop.save = lambda: called.append(("save", loop.progress.step)) or tmp_path  # type: ignore[method-assign,func-returns-value]
    assert loop.run()
    assert sorted(called) == [
        *(("picture", step) for step in (2, 4, 6)),
        *(("probe", step) for step in (3, 6, 7)),
        *(("save", step) for step in (5, 7)),
    ]


def test_a_gradient_that_is_no_number_stops_before_the_step(tmp_path: Path) -> None:
    loop, model, _ = make_loop(tmp_path, max_steps=3)
    loop.objective.inputs = lambda batch, progress: {"values": batch["pixel_values"] / 0}  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match="norm is inf at update 1"):
        loop.run()
    assert model.weight.item() == 2.0
    assert (tmp_path / "diverged-0/process-00000.safetensors").is_file()


def test_the_rate_warms_up_scales_with_the_words_and_falls() -> None:
    settings = PretrainingOptimisationArguments(
        max_steps=100, warmup_steps=10, learning_rate=0.0001, learning_rate_words=256, final_learning_rate=0.1
    )
    rates = [learning_rate_at(settings, 512, update) for update in range(101)]
    assert rates[10] == pytest.approx(0.0002), "the peak, at the end of the warm-up"
    assert rates[5] == pytest.approx(0.0002 * (0.01 + 0.99 * 0.5))
    assert rates[100] == pytest.approx(0.00002)
    constant = PretrainingOptimisationArguments(max_steps=100, learning_rate=0.0015, schedule="constant")
    assert {learning_rate_at(constant, 32, update) for update in range(100)} == {0.0015}


def test_autocast_is_bfloat16_or_nothing() -> None:
    left, right = torch.rand(2, 2), torch.rand(2, 2)
    with autocast(torch.device("cpu"), bf16=True):
        assert (left @ right).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), bf16=False):
        assert (left @ right).dtype == torch.float32
