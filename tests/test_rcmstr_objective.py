"""RCMSTR's part of the loop: keys, queues and masks of an update, however it is divided into slots."""

from typing import Any

import pytest
import torch

from tests.pretraining_models import make, views
from training.objectives import Progress
from training.pretraining_arguments import ObjectiveArguments
from training.rcmstr_objective import RCMSTRObjective


def objective_of(model: Any, words: int = 4, slots: int = 1, **settings: Any) -> RCMSTRObjective:
    return RCMSTRObjective(model, ObjectiveArguments(**{"queue_size": 256, **settings}), 0, words, slots)


def batch_of(encoder: str = "cnn", words: int = 4) -> dict[str, torch.Tensor]:
    first, second = views(encoder, words)
    return {"pixel_values": first, "second_pixel_values": second}


def at(update: int, rank: int = 0, world_size: int = 1, batch: int = 0, batches: int = 1) -> Progress:
    return Progress(update, 10, batch=batch, batches=batches, rank=rank, world_size=world_size)


def test_inputs_hold_all_that_the_model_needs() -> None:
    model = make()
    inputs = objective_of(model).inputs(batch_of(), at(0))
    assert inputs["keys"]["frame"].shape == (4, 26, 8)
    assert {level: len(rows) for level, rows in inputs["negatives"].items()} == {
        "frame": 208,
        "subword": 256,
        "word": 256,
    }
    assert inputs["visible"].shape == (4, 1, 8, 25)
    assert sorted(inputs["order"].tolist()) == [0, 1, 2, 3]
    outputs = model(**inputs)
    assert torch.isfinite(outputs.loss)


def test_updates_differ_and_an_update_repeats() -> None:
    model = make()
    first, again = (objective_of(model).inputs(batch_of(), at(3)) for _ in range(2))
    other = objective_of(model).inputs(batch_of(), at(4))
    assert torch.equal(first["visible"], again["visible"])
    assert torch.equal(first["order"], again["order"])
    assert not torch.equal(first["visible"], other["visible"])


@pytest.mark.parametrize("divided", ["processes", "batches"])
def test_slots_share_the_masks_and_the_order_of_their_update(divided: str) -> None:
    model = make()
    batch = batch_of(words=8)
    whole = objective_of(model, 8).inputs(batch, at(2))
    halves = []
    for part in (0, 1):
        objective = objective_of(model, 4, slots=2)
        progress = at(2, rank=part, world_size=2) if divided == "processes" else at(2, batch=part, batches=2)
        words = {name: tensor[4 * part : 4 * part + 4] for name, tensor in batch.items()}
        halves.append(objective.inputs(words, progress))
    assert torch.equal(torch.cat([half["visible"] for half in halves]), whole["visible"])
    assert all(torch.equal(half["order"], whole["order"]) for half in halves)
    assert all(torch.equal(half["negatives"]["word"], whole["negatives"]["word"]) for half in halves)


def test_the_masked_term_is_a_mean_over_all_hidden_patches_of_the_update() -> None:
    """Slots hide different numbers of patches; their mean loss must still be that of one large batch."""
    model = make("vit", preset="mim", hidden_dropout_prob=0.0)
    batch = batch_of("vit", 8)
    whole = objective_of(model, 8)
    expected = whole.loss(model(**whole.inputs(batch, at(0))), at(0))
    losses, plain = [], []
    for part in (0, 1):
        objective = objective_of(model, 4, slots=2)
        words = {name: tensor[4 * part : 4 * part + 4] for name, tensor in batch.items()}
        outputs = model(**objective.inputs(words, at(0, rank=part, world_size=2)))
        losses.append(objective.loss(outputs, at(0)))
        plain.append(outputs.loss)
        logged = objective.losses(outputs)
        assert logged["loss"].item() == pytest.approx(losses[-1].item())
        assert logged["reconstruction_loss"].item() == pytest.approx(losses[-1].item(), rel=1e-5)
    assert torch.stack(losses).mean().item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(torch.stack(plain).mean().item() - expected.item()) > 1e-7


def test_after_an_update_the_keys_are_in_the_queue_and_the_copy_has_moved() -> None:
    model = make()
    objective = objective_of(model)
    inputs = objective.inputs(batch_of(), at(0))
    keys = {level: vectors.clone() for level, vectors in inputs["keys"].items()}
    assert objective.momentum is not None
    before = objective.momentum.state_dict()["predictors.word.weight"].clone()
    with torch.no_grad():
        model.predictors["word"].weight.add_(1.0)
    objective.after_step(model(**inputs), at(0))
    queued = objective.queues.negatives()["subword"][:16]  # type: ignore[union-attr]
    assert torch.equal(queued, keys["subword"].flatten(0, 1))
    moved = objective.momentum.state_dict()["predictors.word.weight"]
    assert torch.allclose(moved, 0.999 * before + 0.001 * model.predictors["word"].weight, atol=1e-6)


def test_accumulated_batches_enter_the_queue_in_their_order_and_once() -> None:
    model = make()
    objective = objective_of(model, 4, slots=2)
    keys = []
    for number in (0, 1):
        inputs = objective.inputs(batch_of(), at(0, batch=number, batches=2))
        keys.append(inputs["keys"]["word"][:, 0])
        assert objective.queues.queues["word"].filled == 0, "the update sees the queue as it was"  # type: ignore[union-attr]
    objective.after_step(None, at(0, batch=1, batches=2))
    objective.after_step(None, at(0, batch=1, batches=2))
    assert objective.queues is not None
    assert objective.queues.queues["word"].filled == 8
    assert torch.equal(objective.queues.negatives()["word"][:8], torch.cat(keys))


def test_legacy_enqueue_changes_what_terms_between_levels_see_only() -> None:
    model = make()
    inputs = objective_of(model, legacy_enqueue=True).inputs(batch_of(), at(0))
    assert torch.equal(inputs["inter_negatives"]["word"][:4], inputs["keys"]["word"][:, 0])
    assert not torch.equal(inputs["negatives"]["word"][:4], inputs["keys"]["word"][:, 0])
    assert "inter_negatives" not in objective_of(model).inputs(batch_of(), at(0))


@pytest.mark.parametrize("preset", ["seqmoco", "rclstr", "mim"])
def test_a_preset_gets_what_it_uses(preset: str) -> None:
    model = make(preset=preset)
    objective = objective_of(model)
    inputs = objective.inputs(batch_of(), at(0))
    outputs = model(**inputs)
    assert torch.isfinite(objective.loss(outputs, at(0)))
    assert ("visible" in inputs) == (preset == "mim")
    assert ("keys" in inputs) == (preset != "mim")
    if preset == "seqmoco":
        assert set(inputs["negatives"]) == {"subword"}
    if preset == "mim":
        assert objective.state_dict() == {}
        assert objective.statistics(outputs) == {}
    objective.after_step(outputs, at(0))


def test_statistics_compare_with_earlier_keys_and_see_a_collapse() -> None:
    model = make()
    objective = objective_of(model)
    outputs = model(**objective.inputs(batch_of(), at(0)))
    objective.after_step(outputs, at(0))
    numbers = objective.statistics(outputs)
    assert numbers["word/queue_nearest"] < 0.999, "a key is not its own nearest neighbour"
    outputs.query_embeds = {
        level: torch.full_like(rows, 8**-0.5) for level, rows in outputs.query_embeds.items()
    }
    numbers = objective.statistics(outputs)
    assert numbers["frame/effective_rank"] == pytest.approx(1.0)
    assert [text.partition(" (")[0] for text in objective.warnings(numbers)] == [
        f"the {level} features have collapsed to one direction" for level in ("frame", "subword", "word")
    ]


def test_state_goes_round() -> None:
    model, other_model = make(), make(projector_layers=1)
    objective, other = objective_of(model), objective_of(model)
    inputs = objective.inputs(batch_of(), at(0))
    objective.after_step(model(**inputs), at(0))
    other.load_state_dict({name: tensor.clone() for name, tensor in objective.state_dict().items()})
    first, second = (each.inputs(batch_of(), at(1)) for each in (objective, other))
    assert all(torch.equal(first["keys"][level], second["keys"][level]) for level in first["keys"])
    assert all(torch.equal(rows, second["negatives"][level]) for level, rows in first["negatives"].items())
    with pytest.raises(ValueError, match="another model's"):
        objective_of(other_model).load_state_dict(objective.state_dict())


def test_what_cannot_be_right_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of `images_per_group` 2, got 3"):
        objective_of(make(), words=3)
    batch = batch_of() | {"pixel_mask": torch.ones(4, 32, 100)}
    with pytest.raises(ValueError, match="words of one width"):
        objective_of(make()).inputs(batch, at(0))
