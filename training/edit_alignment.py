"""Which character was read for which: predictions aligned with labels by their edit distance, and counted.

An alignment is one of the shortest edits; where several are shortest (`abcd` read as `bxd`), the library's
choice counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class AlignedCharacter:
    """A character of a label and what was read for it.

    Args:
        label: "" when something was read where nothing is.
        read: "" when the character was missed.
    """

    label: str
    read: str


@dataclass(frozen=True)
class Confusion:
    """How often one character was read for another.

    Args:
        label: "" for insertions.
        read: "" for omissions.
        count: how often.
        share: of all occurrences of `label` in labels; of all read characters for insertions.
    """

    label: str
    read: str
    count: int
    share: float


def align(prediction: str, label: str) -> list[AlignedCharacter]:
    """Pair every character of both texts, in order, with as few mistakes as possible."""
    pairs = []
    for step in Levenshtein.opcodes(label, prediction):
        expected, found = label[step.src_start : step.src_end], prediction[step.dest_start : step.dest_end]
        length = max(len(expected), len(found))
        pairs += [AlignedCharacter(expected[i : i + 1], found[i : i + 1]) for i in range(length)]
    return pairs


def count_confusions(predictions: Sequence[str], labels: Sequence[str]) -> list[Confusion]:
    """Count every wrong pair of characters, the most frequent first.

    Raises:
        ValueError: if the lists differ in length.
    """
    pairs = Counter(
        pair
        for prediction, label in zip(predictions, labels, strict=True)
        for pair in align(prediction, label)
    )
    occurrences = Counter("".join(labels))
    read = sum(map(len, predictions))
    wrong = [
        Confusion(pair.label, pair.read, count, count / (occurrences[pair.label] if pair.label else read))
        for pair, count in pairs.items()
        if pair.label != pair.read
    ]
    return sorted(wrong, key=lambda confusion: (-confusion.count, confusion.label, confusion.read))
