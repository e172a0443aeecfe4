"""Which words of a source count as labelled: nested subsets for semi-supervised training.

Every word gets a number in 0 to 1 that depends on its group, its place within the group and the seed only. A
share of the labels is the words below it, a count the words with the smallest numbers: with one seed the 1 %
is part of the 5 %, which is part of the 10 %. Words of another group that are added or reordered move nobody
into or out of a share. What is held out is decided before, by `word_sources.split_by_group`.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from training.source_interface import WordSource


def draw_labelled(
    source: WordSource, rows: np.ndarray, seed: int, share: float = 1.0, count: int | None = None
) -> np.ndarray:
    """Draw the labelled ones of some rows.

    Args:
        source: a finite source of words.
        rows: (N,) row numbers that may be drawn, rising.
        seed: another one draws other words.
        share: of the rows, above 0 to 1; met on average.
        count: exactly so many rows instead of a share.

    Returns:
        Row numbers, rising.

    Raises:
        ValueError: when no row is drawn, or there are fewer than `count`.
    """
    if count is None and share >= 1:
        return rows
    numbers = _numbers(source, rows, seed)
    if count is None:
        drawn = rows[numbers < share]
        if not len(drawn):
            raise ValueError(
                f"source {source.name!r}: `label_share={share}` leaves none of {len(rows)} words to train "
                "on; choose a larger share, or `label_count` for an exact number of words."
            )
        return drawn
    if count > len(rows):
        raise ValueError(
            f"source {source.name!r}: `label_count={count}` asks for more words than the {len(rows)} that "
            "can be trained on (held-out words and labels outside the charset do not count); lower it."
        )
    return np.sort(rows[np.argsort(numbers, kind="stable")[:count]])


def refuse_wrong_labels(share: float, count: int | None) -> None:
    """Refuse a share or a count of labels out of range.

    Raises:
        ValueError: for a share that is not above 0 and up to 1, a count below 1, or both at once.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`label_share` must lie above 0 and up to 1, got {share}; 0.01 is one percent.")
    if count is not None and count < 1:
        raise ValueError(f"`label_count` must be at least 1, got {count}; leave it out for all words.")
    if count is not None and share < 1:
        raise ValueError("`label_share` and `label_count` exclude each other; leave one of them out.")


def _numbers(source: WordSource, rows: np.ndarray, seed: int) -> np.ndarray:
    """(N,) numbers in 0 to 1: a hash of seed, group and place within the group for each row."""
    wanted = {int(row): place for place, row in enumerate(rows)}
    numbers, seen = np.empty(len(rows)), Counter[str]()
    # Places are counted over the whole source: which rows may be drawn has no say in it.
    for row in range(int(rows[-1]) + 1 if len(rows) else 0):
        group = source.group(row)
        if row in wanted:
            digest = hashlib.blake2b(f"{seed}:label:{group}/{seen[group]}".encode(), digest_size=8).digest()
            numbers[wanted[row]] = int.from_bytes(digest, "big") / 2**64
        seen[group] += 1
    return numbers
