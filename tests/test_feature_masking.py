"""Masks of a context perceiver: how many positions, where, and never in the padding."""

import math

import pytest
import torch

from modeling_rcmstr.feature_masking import sample_span_mask


def everywhere(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.ones(batch, height, width, dtype=torch.bool)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "mean"), [(8, 96, 0.2, 153.6), (1, 97, 0.15, 14.55), (1, 96, 0.15, 14.4)]
)
def test_count_is_the_ratio_rounded_at_random(height: int, width: int, ratio: float, mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(2000):
        found = sample_span_mask(everywhere(2, height, width), ratio, generator=generator).sum((1, 2))
        assert found[0] == found[1]  # one rounding per batch
        counts.append(int(found[0]))
    assert set(counts) == {math.floor(mean), math.floor(mean) + 1}
    assert sum(counts) / 2000 == pytest.approx(mean, rel=0.01)


def test_every_position_is_masked_equally_often() -> None:
    masks = sample_span_mask(everywhere(4000, 2, 10), 0.2, generator=torch.Generator().manual_seed(0))
    # 4 of 20, so 0.2 each with a standard deviation of 0.0063
    assert (masks.float().mean(0) - 0.2).abs().max() < 0.03


def test_padding_is_never_masked_and_counts_follow_each_word() -> None:
    widths = torch.tensor([96, 48, 20, 7])
    valid = (torch.arange(96) < widths[:, None])[:, None].expand(4, 8, 96)
    for seed in range(20):
        mask = sample_span_mask(valid, 0.2, generator=torch.Generator().manual_seed(seed))
        assert not (mask & ~valid).any()
        expected = 0.2 * 8 * widths
        counts = mask.sum((1, 2))
        assert ((counts >= expected.floor()) & (counts <= expected.floor() + 1)).all()


def test_short_words_have_at_least_two_masked_positions_and_lone_positions_none() -> None:
    valid = torch.arange(6).expand(4, 1, 6) < torch.tensor([6, 2, 1, 0])[:, None, None]
    for seed in range(10):
        mask = sample_span_mask(valid, 0.05, generator=torch.Generator().manual_seed(seed))
        assert mask.sum((1, 2)).tolist() == [2, 2, 0, 0]
    assert sample_span_mask(valid, 0.05, min_masked=5).sum((1, 2)).tolist() == [5, 2, 0, 0]


def test_seeds_and_words_have_masks_of_their_own() -> None:
    def draw(seed: int) -> torch.Tensor:
        return sample_span_mask(everywhere(2, 8, 32), 0.2, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))
    assert not torch.equal(draw(5)[0], draw(5)[1])


def test_generator_alone_decides() -> None:
    state = torch.get_rng_state()
    sample_span_mask(everywhere(1, 8, 8), 0.2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    first = sample_span_mask(everywhere(1, 8, 8), 0.2)
    torch.manual_seed(3)
    assert torch.equal(sample_span_mask(everywhere(1, 8, 8), 0.2), first)


@pytest.mark.parametrize("span", [(2, 2), (1, 2), (3, 3)])
def test_masks_are_unions_of_spans_cut_at_the_border(span: tuple[int, int]) -> None:
    """Peeling from the top left: the first masked position not yet explained must start a whole span."""
    for seed in range(30):
        valid = everywhere(1, 8, 11)
        valid[..., 9:] = False
        mask = sample_span_mask(valid, 0.3, span, generator=torch.Generator().manual_seed(seed))[0]
        for row, column in mask.nonzero().tolist():
            starts = [
                (r, c)
                for r in range(max(0, row - span[0] + 1), row + 1)
                for c in range(max(0, column - span[1] + 1), column + 1)
                if mask[r : r + span[0], c : min(c + span[1], 9)].all()
            ]
            assert starts, (row, column)
        # Starts times the span is the share; spans overlap, so no more than that is masked.
        starts_at_most = math.floor(0.3 * 8 * 9 / (span[0] * span[1])) + 1
        assert 2 <= int(mask.sum()) <= starts_at_most * span[0] * span[1]


def test_a_corner_start_masks_what_is_left_of_its_span() -> None:
    valid = torch.zeros(1, 3, 3, dtype=torch.bool)
    valid[0, :2, :2] = True
    seen = set()
    for seed in range(200):
        mask = sample_span_mask(
            valid, 0.01, (2, 2), min_masked=1, generator=torch.Generator().manual_seed(seed)
        )
        seen.add(tuple(mask[0].flatten().nonzero()[:, 0].tolist()))
    assert seen == {(0, 1, 3, 4), (1, 4), (3, 4), (4,)}


def test_errors_name_rule_and_value() -> None:
    with pytest.raises(ValueError, match=r"`mask_ratio` must lie in 0..1, got 1.5"):
        sample_span_mask(everywhere(1, 2, 2), 1.5)
    with pytest.raises(ValueError, match=r"`span` must be at least 1x1 positions, got \(0, 2\)"):
        sample_span_mask(everywhere(1, 2, 2), 0.5, (0, 2))
