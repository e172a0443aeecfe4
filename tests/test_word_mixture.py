from typing import Any

import numpy as np
import pytest

from training.word_mixture import MixturePart, WordMixture


class Named:
    """A source of which the mixture only needs the name."""

    def __init__(self, name: str) -> None:
        self.name = name


def part(name: str, weight: float, rows: list[int] | None) -> MixturePart:
    source: Any = Named(name)
    return MixturePart(source, weight, None if rows is None else np.array(rows, dtype=np.int64))


def mixture(seed: int = 0) -> WordMixture:
    return WordMixture(
        [part("endless", 0.7, None), part("ten", 0.2, list(range(100, 110))), part("three", 0.1, [5, 6, 7])],
        seed,
    )


def test_shares_are_met_at_every_length() -> None:
    draws = mixture().draws(0, 5000)
    for length in (100, 1000, 5000):
        counts = np.bincount([draw.part for draw in draws[:length]], minlength=3)
        assert np.abs(counts - length * np.array([0.7, 0.2, 0.1])).max() <= 5


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (1000, 1013), (4999, 5000)])
def test_a_draw_depends_on_its_number_only(start: int, stop: int) -> None:
    everything = mixture().draws(0, 5000)
    assert mixture().draws(start, stop) == everything[start:stop]


def test_asking_backwards_and_forwards_gives_the_same_draws() -> None:
    one = mixture()
    late, early = one.draws(900, 950), one.draws(100, 150)
    assert early == mixture().draws(100, 150)
    assert late == one.draws(900, 950)


def test_a_finite_source_shows_every_row_once_per_pass_in_a_fresh_order() -> None:
    rows = [draw.row for draw in mixture().draws(0, 1000) if draw.part == 1]
    passes = [rows[i : i + 10] for i in range(0, len(rows) - 10, 10)]
    assert all(sorted(turn) == list(range(100, 110)) for turn in passes)
    assert len({tuple(turn) for turn in passes}) > len(passes) // 2


def test_an_endless_source_is_read_in_rising_order() -> None:
    draws = [draw for draw in mixture().draws(0, 200) if draw.part == 0]
    assert [draw.row for draw in draws] == list(range(len(draws)))
    assert [draw.count for draw in draws] == list(range(len(draws)))


def test_another_seed_gives_another_sequence() -> None:
    assert mixture(0).draws(0, 50) != mixture(1).draws(0, 50)


def test_a_part_without_weight_is_never_drawn() -> None:
    draws = WordMixture([part("a", 1, [0]), part("none", 0, [1]), part("b", 1, [2])], 0).draws(0, 300)
    assert {draw.part for draw in draws} == {0, 2}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "positive weights"),
        ([("a", 0.0, [1])], "positive weights"),
        ([("a", -1.0, [1]), ("b", 2.0, [1])], "positive weights"),
        ([("empty", 1.0, [])], "'empty' has a weight but no usable row"),
    ],
)
def test_a_mixture_of_nothing_is_refused(parts: list[tuple[str, float, list[int]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordMixture([part(*arguments) for arguments in parts], 0)
