"""What a masked position is held against: never itself, never padding, uniform, by each of three scopes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.perceiver_losses import (
    DISTRACTOR_SCOPES,
    Distractors,
    masked_queries,
    sample_distractors,
)
from tests.persec_words import some_mask


def test_queries_list_the_masked_positions_in_order() -> None:
    mask, _ = some_mask()
    queries = masked_queries(mask)
    assert queries.index.shape == (3, 9)
    for word in range(3):
        expected = mask[word].nonzero()[:, 0]
        assert torch.equal(queries.index[word][queries.present[word]], expected)
        assert int(queries.present[word].sum()) == 9 - 2 * word


@pytest.mark.parametrize("count", [1, 12, 200])
def test_image_scope_draws_each_other_position_of_the_word_at_most_once(count: int) -> None:
    mask, valid = some_mask()
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, count, "image")
    assert drawn.bank is None
    for word in range(3):
        positions = int(valid[word].sum())
        for slot in range(int(queries.present[word].sum())):
            chosen = drawn.index[word, slot][drawn.present[word, slot]].tolist()
            assert len(chosen) == len(set(chosen)) == min(count, positions - 1)
            assert int(queries.index[word, slot]) not in chosen
            assert all(valid[word, place] for place in chosen)


def test_image_scope_takes_100_or_all_but_one_at_the_papers_sizes() -> None:
    for positions, expected in ((768, 100), (97, 96), (96, 95)):
        valid = torch.ones(1, positions, dtype=torch.bool)
        mask = torch.arange(positions)[None] < 5
        drawn = sample_distractors(masked_queries(mask), valid, 100)
        assert drawn.index.shape == (1, 5, expected)
        assert drawn.present.all()


def test_image_scope_is_uniform_and_independent_between_queries() -> None:
    valid = torch.ones(2000, 6, dtype=torch.bool)
    mask = torch.tensor([True, True, False, False, False, False]).expand(2000, 6)
    drawn = sample_distractors(masked_queries(mask), valid, 2, generator=torch.Generator().manual_seed(0))
    counts = F.one_hot(drawn.index, 6).sum((0, 2))  # (queries, positions)
    assert counts[0, 0] == counts[1, 1] == 0
    # 4000 draws over 5 positions: 800 each, standard deviation 22
    assert (counts[0, 1:] - 800).abs().max() < 100
    both = (drawn.index == 5).any(-1).all(1).float().mean()
    assert float(both) == pytest.approx(0.16, abs=0.04)  # 0.4 for each query


def test_masked_scope_is_wav2vec2s() -> None:
    mask, valid = some_mask()
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, 100, "masked", torch.Generator().manual_seed(0))
    assert drawn.index.shape == (3, 9, 100)
    for word in range(3):
        masked = set(mask[word].nonzero()[:, 0].tolist())
        for slot in range(int(queries.present[word].sum())):
            assert drawn.present[word, slot].all()
            chosen = drawn.index[word, slot].tolist()
            # 100 draws with replacement from 4 to 8 positions leave none out, but for one chance in a million
            assert set(chosen) == masked - {int(queries.index[word, slot])}
    counts = np.bincount(drawn.index[0, 0].numpy(), minlength=40)
    assert counts.max() < 30  # 12.5 expected


def test_masked_scope_has_nothing_for_a_lone_masked_position() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]])
    drawn = sample_distractors(masked_queries(mask), torch.ones_like(mask), 5, "masked")
    assert not drawn.present[0].any()
    assert drawn.present[1].all()
    assert torch.equal(drawn.index[1], torch.tensor([[1] * 5, [0] * 5]))


@pytest.mark.parametrize("count", [7, 500])
def test_batch_scope_draws_from_every_word(count: int) -> None:
    mask, valid = some_mask()
    queries = masked_queries(mask)
    drawn = sample_distractors(queries, valid, count, "batch", torch.Generator().manual_seed(1))
    assert drawn.bank is not None
    expected = min(count, int(valid.sum()) - 1)
    assert len(set(drawn.bank.tolist())) == len(drawn.bank) == expected + 1
    assert valid.flatten()[drawn.bank].all()
    for word in range(3):
        for slot in range(int(queries.present[word].sum())):
            chosen = drawn.bank[drawn.index[word, slot]].tolist()
            assert drawn.present[word, slot].all()
            assert len(set(chosen)) == len(chosen) == expected
            assert word * 40 + int(queries.index[word, slot]) not in chosen


def test_batch_scope_is_uniform_over_all_other_positions() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    queries = masked_queries(torch.tensor([[True, False, False], [False, False, False]]))
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(6)
    for _ in range(3000):
        drawn = sample_distractors(queries, valid, 2, "batch", generator)
        assert drawn.bank is not None
        counts[drawn.bank[drawn.index[0, 0]]] += 1
    assert counts[0] == 0
    assert (counts[1:] - 1200).abs().max() < 130  # standard deviation 27


@pytest.mark.parametrize("scope", DISTRACTOR_SCOPES)
def test_distractors_repeat_with_their_seed(scope: str) -> None:
    mask, valid = some_mask()
    state = torch.get_rng_state()
    first, again, other = (
        sample_distractors(masked_queries(mask), valid, 6, scope, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )

    def places(drawn: Distractors) -> Tensor:
        return drawn.index if drawn.bank is None else drawn.bank[drawn.index]

    assert torch.equal(places(first), places(again))
    assert not torch.equal(places(first), places(other))
    assert torch.equal(torch.get_rng_state(), state)
