"""Masks: exact counts, closed-form expectations, even positions, and one seed for one mask."""

import numpy as np
import pytest
import torch

from modeling_rcmstr.masking import sample_block_mask, sample_random_mask, upsample_mask

DIG_GRID = (8, 32)
CNN_GRID = (8, 25)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"),
    [(DIG_GRID, 0.7, 179), (CNN_GRID, 0.7, 140), (DIG_GRID, 0.0, 0), (DIG_GRID, 1.0, 256), ((1, 3), 0.5, 1)],
)
def test_random_mask_hides_exactly_the_floor_of_its_share(
    grid: tuple[int, int], ratio: float, hidden: int
) -> None:
    mask = sample_random_mask(64, grid, ratio, generator())
    assert mask.shape == (64, 1, *grid)
    assert mask.dtype == torch.bool
    assert mask.sum((1, 2, 3)).tolist() == [hidden] * 64


def test_random_mask_hides_every_unit_equally_often() -> None:
    share = sample_random_mask(4000, (4, 5), 0.7, generator()).float().mean(0)
    # Five standard deviations of a proportion of 0.7 in 4000 draws.
    assert float((share - 0.7).abs().max()) < 5 * (0.7 * 0.3 / 4000) ** 0.5


def test_masks_of_two_words_are_independent() -> None:
    """Two independent masks of 179 of 256 units share 179² / 256 of them on average."""
    first, second = sample_random_mask(2000, DIG_GRID, 0.7, generator()).chunk(2)
    shared = (first & second).sum((1, 2, 3)).float()
    deviation = (179**2 / 256 * (77 / 256) * (77 / 255)) ** 0.5  # hypergeometric
    assert abs(float(shared.mean()) - 179**2 / 256) < 5 * deviation / 1000**0.5


def test_block_stands_full_height_at_any_start_equally_often() -> None:
    mask = sample_block_mask(2900, DIG_GRID, 1, 4, generator())[:, 0]
    assert bool((mask == mask[:, :1]).all())  # all rows alike
    columns = mask[:, 0].int()
    assert columns.sum(1).tolist() == [4] * 2900
    starts = columns.argmax(1)
    assert bool((columns.gather(1, starts[:, None] + torch.arange(4)) == 1).all())  # in one piece
    counts = np.bincount(starts.numpy(), minlength=29)
    assert len(counts) == 29
    assert ((counts - 100.0) ** 2 / 100.0).sum() < 68  # chi square, 28 degrees of freedom, p about 3e-5


def test_union_of_both_masks_has_the_expected_share() -> None:
    """179 random units and a block of 32: 179 + 32 · 77/256 = 188.6 hidden, between 179 and 211."""
    random = sample_random_mask(2000, DIG_GRID, 0.7, generator(1))
    block = sample_block_mask(2000, DIG_GRID, 1, 4, generator(2))
    hidden = (random | block).sum((1, 2, 3))
    assert 179 <= int(hidden.min()) <= int(hidden.max()) <= 211
    deviation = (32 * (179 / 256) * (77 / 256) * (224 / 255)) ** 0.5
    assert abs(float(hidden.float().mean()) - 188.625) < 5 * deviation / 2000**0.5


def test_several_blocks_hide_between_one_and_all_of_their_widths() -> None:
    columns = sample_block_mask(500, (2, 20), 3, 2, generator())[:, 0, 0].sum(1)
    assert int(columns.min()) >= 2
    assert int(columns.max()) == 6
    assert int(sample_block_mask(5, (2, 20), 0, 2, generator()).sum()) == 0
    assert bool(sample_block_mask(5, (2, 4), 1, 4, generator()).all())


def test_a_seed_is_a_mask() -> None:
    for sample in (
        lambda seed: sample_random_mask(4, DIG_GRID, 0.7, generator(seed)),
        lambda seed: sample_block_mask(4, DIG_GRID, 1, 4, generator(seed)),
    ):
        assert torch.equal(sample(3), sample(3))
        assert not torch.equal(sample(3), sample(4))


def test_without_a_generator_the_global_seed_counts() -> None:
    torch.manual_seed(5)
    first = sample_random_mask(4, DIG_GRID, 0.7)
    torch.manual_seed(5)
    assert torch.equal(first, sample_random_mask(4, DIG_GRID, 0.7))


def test_finer_grid_repeats_each_unit() -> None:
    mask = sample_random_mask(3, (2, 3), 0.5, generator())
    assert np.array_equal(upsample_mask(mask, 4).numpy(), np.kron(mask.numpy(), np.ones((1, 1, 4, 4), bool)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_random_mask(2, DIG_GRID, 1.1), r"`mask_ratio` must lie in 0\.\.1, got 1\.1"),
        (lambda: sample_random_mask(2, (0, 4), 0.5), "`grid_size` must be"),
        (lambda: sample_block_mask(2, DIG_GRID, 1, 33), r"`block_width` must lie in 1\.\.32"),
        (lambda: sample_block_mask(2, DIG_GRID, 1, 0), "`block_width` must lie in"),
        (lambda: sample_block_mask(2, DIG_GRID, -1, 4), "`num_blocks` must be 0 or more"),
    ],
)
def test_unusable_numbers_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
