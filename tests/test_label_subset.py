"""Labelled words of a share: nested, about as many as asked for, and the same when others are added."""

import hashlib
from typing import Any

import numpy as np
import pytest

from training.label_subset import draw_labelled, refuse_wrong_labels
from training.source_interface import WordSource
from training.word_sources import split_by_group

SHARES = (0.01, 0.05, 0.1, 1.0)


class Words(WordSource):
    """Words of photographs, named by the photograph of each."""

    def __init__(self, groups: list[str]) -> None:
        self.name, self.size, self.groups = "words", len(groups), groups

    def row(self, index: int) -> dict[str, Any]:
        return {"image": None, "text": self.text(index)}

    def text(self, index: int) -> str:
        return f"word {index}"

    def group(self, index: int) -> str:
        return self.groups[index]


@pytest.fixture
def words() -> Words:
    """Six words on each of 700 photographs."""
    return Words([f"photograph {row // 6}" for row in range(4200)])


def everything(words: Words) -> np.ndarray:
    return np.arange(len(words.groups))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_smaller_share_is_part_of_a_larger_one_and_of_about_its_size(words: Words, seed: int) -> None:
    """Within four standard deviations of the binomial distribution."""
    rows = everything(words)
    subsets = [draw_labelled(words, rows, seed, share) for share in SHARES]
    for smaller, larger in zip(subsets[:-1], subsets[1:], strict=True):
        assert set(smaller.tolist()) < set(larger.tolist())
    for share, subset in zip(SHARES, subsets, strict=True):
        assert abs(len(subset) - share * 4200) <= 4 * (4200 * share * (1 - share)) ** 0.5
        assert subset.tolist() == sorted(set(subset.tolist()))
    assert np.array_equal(subsets[-1], rows)


def test_counts_are_exact_and_nested_among_each_other_and_in_the_shares(words: Words) -> None:
    rows = everything(words)
    subsets = [draw_labelled(words, rows, 0, count=count) for count in (1, 10, 420, 4200)]
    assert [len(subset) for subset in subsets] == [1, 10, 420, 4200]
    share = draw_labelled(words, rows, 0, 0.03)
    for subset in [*subsets, draw_labelled(words, rows, 0, count=len(share))]:
        one, other = set(subset.tolist()), set(share.tolist())
        assert one <= other or other <= one
    assert np.array_equal(draw_labelled(words, rows, 0, count=len(share)), share)


def test_another_seed_draws_other_words(words: Words) -> None:
    rows = everything(words)
    first, second = (set(draw_labelled(words, rows, seed, 0.1).tolist()) for seed in (0, 1))
    # A tenth of a tenth is in both by chance.
    assert len(first & second) < 0.3 * len(first)


def test_words_that_are_added_or_reordered_move_no_others(words: Words) -> None:
    def drawn(source: Words) -> set[str]:
        """Photograph and place within it."""
        rows = draw_labelled(source, everything(source), 0, 0.2)
        return {
            f"{source.group(row)}/{source.groups[:row].count(source.group(row))}" for row in rows.tolist()
        }

    before = drawn(words)
    added = drawn(Words(["new"] * 50 + words.groups + ["newer"] * 50))
    assert {name for name in added if not name.startswith("new")} == before
    by_name = sorted(words.groups, key=lambda group: hashlib.md5(group.encode()).digest())
    assert drawn(Words(by_name)) == before


def test_the_words_to_draw_from_have_no_say_in_each_others_chances(words: Words) -> None:
    rows = everything(words)
    some = rows[rows % 3 == 0]
    expected = [row for row in draw_labelled(words, rows, 0, 0.2).tolist() if row % 3 == 0]
    assert draw_labelled(words, some, 0, 0.2).tolist() == expected


def test_what_is_held_out_stays_so_and_tells_nothing_about_what_is_labelled(words: Words) -> None:
    train, held_out = split_by_group(words, 0.5, 0)
    labelled = draw_labelled(words, train, 0, 0.1)
    assert not set(labelled.tolist()) & set(held_out.tolist())
    assert abs(len(labelled) / len(train) - 0.1) < 0.03, "with the same seed, too"


def test_too_few_words_are_an_error_that_says_what_to_do(words: Words) -> None:
    with pytest.raises(ValueError, match=r"'words': `label_share=1e-09` leaves none of 4200.*`label_count`"):
        draw_labelled(words, everything(words), 0, 1e-9)
    with pytest.raises(ValueError, match="`label_count=11` asks for more words than the 10"):
        draw_labelled(words, np.arange(10), 0, count=11)
    with pytest.raises(ValueError, match="leaves none of 0 words"):
        draw_labelled(words, np.arange(0), 0, 0.5)


@pytest.mark.parametrize(("share", "count"), [(0.0, None), (1.1, None), (1.0, 0), (0.5, 3)])
def test_wrong_limits_are_refused(share: float, count: int | None) -> None:
    refuse_wrong_labels(1.0, None)
    refuse_wrong_labels(0.01, None)
    refuse_wrong_labels(1.0, 1)
    with pytest.raises(ValueError, match="label_"):
        refuse_wrong_labels(share, count)
