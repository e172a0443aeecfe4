"""Rearrangement: a NumPy twin, the strips by name, and restore as its inverse for all orders."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.rearrangement import rearrange, restore, sample_order


def twin(images: np.ndarray, order: tuple[int, ...], blocks: int, group: int) -> np.ndarray:
    """Side by side, cut, reorder, cut back: written with lists."""
    result = []
    for first in range(0, len(images), group):
        wide = np.concatenate(list(images[first : first + group]), axis=-1)
        strips = np.split(wide, blocks * group, axis=-1)
        wide = np.concatenate([strips[piece] for piece in order], axis=-1)
        result += np.split(wide, group, axis=-1)
    return np.stack(result)


def column_means(images: Tensor, pixels: int) -> Tensor:
    """An encoder whose frames see their own pixels only: (B, C, H, W) to (B, W / pixels, C)."""
    return images.mean(2).unflatten(2, (-1, pixels)).mean(3).transpose(1, 2)


def test_strips_go_where_the_order_says() -> None:
    """Order (2, 0, 3, 1): image 0 is left of image 1 and left of image 0; image 1 the right halves."""
    first, second = torch.arange(8.0).reshape(1, 1, 8), torch.arange(10.0, 18.0).reshape(1, 1, 8)
    collage = rearrange(torch.stack([first, second]), torch.tensor([2, 0, 3, 1]), 2, 2)
    assert collage[0].flatten().tolist() == [10, 11, 12, 13, 0, 1, 2, 3]
    assert collage[1].flatten().tolist() == [14, 15, 16, 17, 4, 5, 6, 7]


@pytest.mark.parametrize(("blocks", "group"), [(2, 2), (1, 2), (3, 2), (2, 3), (4, 1), (1, 1)])
def test_rearrange_equals_the_numpy_twin(blocks: int, group: int) -> None:
    images = torch.randn(6, 3, 4, 12)
    order = torch.randperm(blocks * group)
    expected = twin(images.numpy(), tuple(order.tolist()), blocks, group)
    assert np.array_equal(rearrange(images, order, blocks, group).numpy(), expected)


@pytest.mark.parametrize(("frames", "pixels"), [(26, 4), (32, 4)])
def test_restore_undoes_every_order_for_an_encoder_that_sees_locally(frames: int, pixels: int) -> None:
    images = torch.randn(4, 3, 2, frames * pixels)
    plain = column_means(images, pixels)
    for order in permutations(range(4)):
        pieces = torch.tensor(order)
        assert torch.equal(
            restore(column_means(rearrange(images, pieces, 2, 2), pixels), pieces, 2, 2), plain
        )


@pytest.mark.parametrize(("blocks", "group"), [(3, 2), (2, 3), (4, 1)])
def test_restore_undoes_other_divisions(blocks: int, group: int) -> None:
    images = torch.randn(6, 2, 1, 24)
    order = torch.randperm(blocks * group)
    collage = rearrange(images, order, blocks, group)
    assert torch.equal(restore(column_means(collage, 1), order, blocks, group), column_means(images, 1))


def test_blocks_of_32_frames_have_16() -> None:
    frames = torch.arange(64.0).reshape(2, 32, 1)
    swapped = restore(frames, torch.tensor([1, 0, 3, 2]), 2, 2)
    assert swapped[0, :, 0].tolist() == [*range(16, 32), *range(16)]


def test_orders_are_drawn_evenly_the_unchanged_one_included() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(sample_order(2, 2, generator).tolist()) for _ in range(2400)]
    counts = np.array([drawn.count(order) for order in permutations(range(4))])
    assert counts.sum() == 2400
    assert counts[0] > 0
    assert ((counts - 100.0) ** 2 / 100.0).sum() < 61  # chi square, 23 degrees of freedom, p about 3e-5


def test_a_seed_is_an_order() -> None:
    draws = [sample_order(3, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert sorted(draws[0].tolist()) == list(range(12))


def test_uneven_words_columns_and_orders_are_refused() -> None:
    order = torch.arange(4)
    with pytest.raises(ValueError, match="a batch of 3 words cannot be grouped by 2"):
        rearrange(torch.zeros(3, 1, 1, 4), order, 2, 2)
    with pytest.raises(ValueError, match="25 pixel columns cannot be cut into 2 equal pieces"):
        rearrange(torch.zeros(2, 1, 1, 25), order, 2, 2)
    with pytest.raises(ValueError, match="33 frames cannot be cut into 2 equal pieces"):
        restore(torch.zeros(2, 33, 5), order, 2, 2)
    for wrong in (torch.arange(3), torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1, 2, 4])):
        with pytest.raises(ValueError, match="must be a permutation of 0..3"):
            restore(torch.zeros(2, 4, 5), wrong, 2, 2)
