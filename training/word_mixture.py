"""Sources mixed by weight into one endless, repeatable sequence of draws.

Draw i is a pure function of (weights, seed, i), whatever process asks for it, so a run is resumed by a
number. The share of a source is met at every length of the sequence to within a few words (a golden-ratio
sequence picks the source), and the rows of a finite source come in a fresh permutation per pass, so every row
is seen once before any is seen twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.source_interface import WordSource

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture.

    Args:
        source: where the words come from.
        weight: share of the draws, relative to the other parts.
        rows: row numbers in use; None means all (an endless source).
        augmentation_strength: 0 to 1.
    """

    source: WordSource
    weight: float
    rows: np.ndarray | None
    augmentation_strength: float = 0.0


@dataclass(frozen=True)
class Draw:
    """One word to be read: part number, row of its source, and how many draws of this part came before."""

    part: int
    row: int
    count: int


class WordMixture:
    """The sequence of draws.

    Args:
        parts: the sources; parts of weight 0 are allowed and never drawn.
        seed: of the permutations and of the sequence's start.

    Raises:
        ValueError: when a part with a weight has no rows, or no part has a weight.
    """

    def __init__(self, parts: list[MixturePart], seed: int) -> None:
        weights = np.array([part.weight for part in parts], dtype=np.float64)
        if not len(parts) or weights.sum() <= 0 or (weights < 0).any():
            raise ValueError(f"a mixture needs positive weights, got {weights.tolist()}.")
        for part in parts:
            if part.weight > 0 and part.rows is not None and not len(part.rows):
                raise ValueError(f"source {part.source.name!r} has a weight but no usable row; leave it out.")
        self.parts = parts
        self.seed = seed
        self._edges = np.cumsum(weights / weights.sum())
        self._edges[-1] = 1.0
        self._start = float(np.random.default_rng([seed, 1]).random())
        self._known_position, self._known_counts = 0, np.zeros(len(parts), dtype=np.int64)
        self._permutation = lru_cache(maxsize=2 * len(parts))(self._make_permutation)

    def draws(self, start: int, stop: int) -> list[Draw]:
        """Draws number `start` to `stop`, the latter left out."""
        counts = self._counts_before(start).copy()
        result = []
        for part in self._choose(start, stop).tolist():
            count = int(counts[part])
            result.append(Draw(part=part, row=self._row(part, count), count=count))
            counts[part] += 1
        self._known_position, self._known_counts = stop, counts
        return result

    def _choose(self, start: int, stop: int) -> np.ndarray:
        """Part number of each draw."""
        points = (self._start + np.arange(start, stop, dtype=np.float64) * _GOLDEN) % 1.0
        return np.searchsorted(self._edges, points, side="right")

    def _counts_before(self, position: int) -> np.ndarray:
        """How often each part was drawn before a position; counted on from the last one asked for."""
        known = self._known_position
        counts = self._known_counts.copy()
        if position < known:
            known, counts = 0, np.zeros_like(counts)
        for begin in range(known, position, 1 << 20):
            chosen = self._choose(begin, min(begin + (1 << 20), position))
            counts += np.bincount(chosen, minlength=len(self.parts))
        return counts

    def _row(self, part: int, count: int) -> int:
        rows = self.parts[part].rows
        if rows is None:
            return count
        return int(rows[self._permutation(part, count // len(rows))[count % len(rows)]])

    def _make_permutation(self, part: int, turn: int) -> np.ndarray:
        rows = self.parts[part].rows
        assert rows is not None
        return np.random.default_rng([self.seed, 2, part, turn]).permutation(len(rows))


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process takes: the `rank`-th of `world_size` equal ones."""

    rank: int = 0
    world_size: int = 1

    def draws(self, mixture: WordMixture, batch: int, batch_size: int) -> list[Draw]:
        """The `batch_size` draws of this process for one batch."""
        start = (batch * self.world_size + self.rank) * batch_size
        return mixture.draws(start, start + batch_size)
