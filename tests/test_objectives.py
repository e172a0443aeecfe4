"""Slots of an update, seeds, and the choice of a family's objective."""

from types import SimpleNamespace

import pytest
import torch

from training.objectives import Progress, derive_seed, make_objective
from training.pretraining_arguments import ObjectiveArguments


def test_slots_number_the_batches_of_an_update_process_by_process() -> None:
    found = [
        Progress(update=3, max_updates=9, batch=batch, batches=2, rank=rank, world_size=3).slot
        for batch in range(2)
        for rank in range(3)
    ]
    assert found == list(range(6))
    assert Progress(0, 1, batches=2, world_size=3).slots == 6


def test_the_same_update_at_another_batch() -> None:
    progress = Progress(update=3, max_updates=9, batches=2, rank=1, world_size=2)
    assert progress.at_batch(1) == Progress(3, 9, batch=1, batches=2, rank=1, world_size=2)


def test_seeds_of_different_numbers_differ_and_fit_a_generator() -> None:
    seeds = {derive_seed(*numbers) for numbers in [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (0, 2**40)]}
    assert len(seeds) == 6
    assert derive_seed(5, 6) == derive_seed(5, 6)
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_an_unknown_family_is_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="trocr"))
    with pytest.raises(
        ValueError, match="no pretraining objective for model type 'trocr'; known: rcmstr, persec"
    ):
        make_objective(model, ObjectiveArguments(), 0, 4, 1)
