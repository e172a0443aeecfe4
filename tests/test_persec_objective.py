"""PerSec's part of the loop: temperature, draws by slot, code counts and the quantiser's collapse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.persec_words import images
from tests.pretraining_settings import TINY_PRETRAINING
from training.objectives import Progress
from training.persec_objective import PerSecObjective, count_codes
from training.pretraining_arguments import ObjectiveArguments


@pytest.fixture
def model(tiny_config: Callable[..., Any]) -> Any:
    return PerSecForPreTraining(tiny_config("persec", "vit", **TINY_PRETRAINING["persec"])).train()


def test_the_temperature_falls_over_the_run(model: Any) -> None:
    objective = PerSecObjective(model, ObjectiveArguments(), 0)
    batch = {"pixel_values": images()}
    found = [
        objective.inputs(batch, Progress(update, 100))["gumbel_temperature"] for update in (0, 35, 70, 99)
    ]
    assert found == pytest.approx([2.0, 1.0, 0.5, 0.5])
    lineage = PerSecObjective(model, ObjectiveArguments(gumbel_factor=0.999995), 0)
    assert lineage.inputs(batch, Progress(48828, 100))["gumbel_temperature"] == pytest.approx(1.567, abs=1e-3)


def test_draws_belong_to_the_slot_and_repeat(model: Any) -> None:
    batch = {"pixel_values": images()}

    def loss(progress: Progress) -> float:
        objective = PerSecObjective(model, ObjectiveArguments(), 0)
        with torch.no_grad():
            return model(**objective.inputs(batch, progress)).loss.item()

    second_process = Progress(2, 9, rank=1, world_size=2)
    second_batch = Progress(2, 9, batch=1, batches=2)
    assert loss(second_process) == loss(second_batch) == loss(second_batch)
    assert loss(second_batch) != loss(Progress(2, 9))
    assert loss(Progress(2, 9)) != loss(Progress(3, 9))


def test_codes_are_counted_by_codebook_without_padding(model: Any) -> None:
    assert count_codes(torch.tensor([[0, 2], [0, 1], [3, 2]]), 4).tolist() == [[2, 0, 0, 1], [0, 1, 2, 0]]
    objective = PerSecObjective(model, ObjectiveArguments(), 0)
    mask = (torch.arange(64) < torch.tensor([[64], [32]]))[:, None].expand(-1, 32, -1).long()
    outputs = model(**objective.inputs({"pixel_values": images(), "pixel_mask": mask}, Progress(0, 9)))
    objective.after_step(outputs, Progress(0, 9))
    counts = objective.usage["stroke"].counts
    assert counts is not None
    assert counts.sum(1).tolist() == [int(outputs.stroke_valid.sum())] * 2
    assert int(outputs.stroke_valid.sum()) == 8 * (16 + 8)
    numbers = objective.statistics(outputs)
    assert 1 <= numbers["stroke_codebook_0/used"] <= 8
    assert {"semantic_codebook_1/perplexity", "gumbel_temperature"} <= numbers.keys()
    assert set(objective.statistics(outputs)) == {"gumbel_temperature"}, "counted anew after a read"


def test_a_collapsed_codebook_is_said(model: Any) -> None:
    objective = PerSecObjective(model, ObjectiveArguments(), 0)
    objective.usage["semantic"].add(torch.tensor([[50, 0, 0, 0, 0, 0, 0, 0], [7, 6, 7, 6, 6, 6, 6, 6]]))
    (warning,) = objective.warnings(objective.statistics(None))
    assert warning == (
        "semantic codebook 0 has collapsed (1 of 8 entries used, perplexity 1.0); raise the diversity weight "
        "or `gumbel_end`."
    )


def test_losses_are_every_term_unweighted(model: Any) -> None:
    objective = PerSecObjective(model, ObjectiveArguments(), 0)
    outputs = model(**objective.inputs({"pixel_values": images()}, Progress(0, 9)))
    losses = objective.losses(outputs)
    weights = model.config.loss_weights
    total = sum(
        getattr(weights, f"{level}_{short}") * losses[f"{level}_{name}"]
        for level in ("stroke", "semantic")
        for short, name in (
            ("contrastive", "contrastive_loss"),
            ("diversity", "diversity_loss"),
            ("penalty", "feature_penalty"),
        )
    )
    assert losses["loss"].item() == pytest.approx(float(total), rel=1e-6)
    assert not any(value.requires_grad for value in losses.values())
    assert objective.state_dict() == {}


def test_a_model_without_a_quantiser_has_no_codes(tiny_config: Callable[..., Any]) -> None:
    fields = {**TINY_PRETRAINING["persec"], "quantize_targets": False}
    plain = PerSecForPreTraining(tiny_config("persec", "vit", **fields)).train()
    objective = PerSecObjective(plain, ObjectiveArguments(), 0)
    outputs = plain(**objective.inputs({"pixel_values": images()}, Progress(0, 9)))
    objective.after_step(outputs, Progress(0, 9))
    assert set(objective.statistics(outputs)) == {"gumbel_temperature"}
