import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from training.word_formats import Shares, clock_time, code, date, number, price, shaped, telephone


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


@pytest.mark.parametrize(
    ("draw", "pattern"),
    [
        (price, r"\d"),
        (date, r"\d"),
        (clock_time, r"\d{1,2}"),
        (telephone, r"[\d+(]"),
        (number, r"[\dNx#+@-]"),
        (code, r"[\dA-Z#(]"),
    ],
)
def test_forms_hold_digits(draw: Callable[[np.random.Generator], str], pattern: str) -> None:
    rng = generator()
    for _ in range(200):
        text = draw(rng)
        assert any(c.isdigit() for c in text)
        assert re.search(pattern, text)


def test_shapes_are_filled_letter_by_letter() -> None:
    assert re.fullmatch(r"[A-Z]{2}\d \d-x", shaped(generator(), "AA0_0-x"))


def test_shares_are_drawn_in_proportion_and_zero_never() -> None:
    shares, rng = Shares((("none", 0.0), ("one", 1.0), ("three", 3.0), ("last", 0.0))), generator()
    counts = Counter(shares.pick(rng) for _ in range(4000))
    assert set(counts) == {"one", "three"}
    assert counts["three"] / counts["one"] == pytest.approx(3.0, rel=0.12)
