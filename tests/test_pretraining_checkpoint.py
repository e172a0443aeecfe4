"""Checkpoints: what a session may go on from. That it goes on exactly is in `test_run_pretraining`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from modeling_rcmstr import TextRecognitionImageProcessor
from tests.pretraining_models import make, views
from training.objectives import Progress
from training.optimization import make_optimizer, parameter_groups
from training.pretraining_arguments import ObjectiveArguments
from training.pretraining_checkpoint import (
    PROGRESS_FILE,
    RunProgress,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
)
from training.rcmstr_objective import RCMSTRObjective


def write_progress(folder: Path, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(RunProgress(**values))))
    return folder


def test_progress_comes_back(tmp_path: Path) -> None:
    place = write_progress(tmp_path / "one", step=7, words_per_update=8, counts={"read x": 3}, images=56)
    assert read_progress(place, RunProgress(words_per_update=8)).counts == {"read x": 3}


def test_other_processes_may_go_on_when_the_update_stays_the_same(tmp_path: Path) -> None:
    place = write_progress(tmp_path / "two", step=7, words_per_update=8, world_size=2)
    assert read_progress(place, RunProgress(words_per_update=8, world_size=1)).step == 7


@pytest.mark.parametrize(
    ("saved", "now", "match"),
    [
        ({"words_per_update": 8}, {"words_per_update": 16}, "words per update 8, this one has 16"),
        ({"zero_stage": 2}, {"zero_stage": 0}, "zero stage 2, this one has 0"),
        ({"zero_stage": 2, "world_size": 2}, {"zero_stage": 2, "world_size": 4}, "optimizer in 2 parts"),
    ],
)
def test_a_run_that_cannot_go_on_exactly_is_refused(
    tmp_path: Path, saved: dict[str, Any], now: dict[str, Any], match: str
) -> None:
    place = write_progress(tmp_path / "other", **saved)
    with pytest.raises(ValueError, match=match):
        read_progress(place, RunProgress(**now))


def test_everything_is_saved_restored_and_pruned(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    processor = TextRecognitionImageProcessor(size={"height": 32, "width": 100})

    def session() -> tuple[Any, Any, RCMSTRObjective]:
        model = make()
        objective = RCMSTRObjective(model, ObjectiveArguments(queue_size=256), 0, 4, 1)
        optimizer = accelerator.prepare(
            make_optimizer("sgd", parameter_groups(model, 0.0), 0.1, momentum=0.9)
        )
        return model, optimizer, objective

    def step(model: Any, optimizer: Any, objective: RCMSTRObjective, update: int) -> None:
        first, second = views(batch=4)
        batch = {"pixel_values": first, "second_pixel_values": second}
        outputs = model(**objective.inputs(batch, Progress(update, 9)))
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(outputs, Progress(update, 9))

    model, optimizer, objective = session()
    for update in range(3):
        step(model, optimizer, objective, update)
        progress = RunProgress(step=update + 1, words_per_update=4)
        place = save_checkpoint(
            tmp_path, accelerator, model, optimizer, objective, processor, progress, keep=2
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    expected = torch.rand(3)
    other_model, other_optimizer, other_objective = session()
    other_model.load_state_dict(model.state_dict())
    restore_checkpoint(place, accelerator, other_optimizer, other_objective, read_progress(place, progress))
    assert torch.equal(torch.rand(3), expected), "random numbers go on"
    for each in ((model, optimizer, objective), (other_model, other_optimizer, other_objective)):
        step(*each, 3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other_model.state_dict()[name]), name
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, other_objective.state_dict()[name]), name
