"""What a recogniser gets wrong: accuracy by length, by kind of word, by image height; the worst mistakes.

Works on `WordRecord`s, one per measured word. Right means what `benchmarks.PROTOCOL` says; every share comes
with its number of words and Wilson's interval, since groups are often small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_rcmstr.image_reading import read_image
from training.benchmark_measurement import Readings
from training.benchmark_sets import BenchmarkSet
from training.benchmarks import normalise_alphanumeric
from training.edit_alignment import align
from training.metrics import Interval, wilson_interval

# Words of this many characters and more are one group.
LONGEST_GROUP = 12
# Lower ends of the groups of image heights, in pixels.
HEIGHT_STEPS = (0, 16, 24, 32, 48, 64, 96)
WORD_KINDS = (
    "lower case",
    "upper case",
    "capitalised",
    "mixed case",
    "digits",
    "letters and digits",
    "with other characters",
)
CHARACTER_KINDS: dict[str, Callable[[str], bool]] = {
    "lower-case letters": lambda character: character.isalpha() and not character.isupper(),
    "upper-case letters": lambda character: character.isalpha() and character.isupper(),
    "digits": str.isdigit,
    "other characters": lambda character: not character.isalnum(),
}


@dataclass(frozen=True)
class WordRecord:
    """One measured word.

    Args:
        set_name: where it is from.
        image: what the reader was given.
        label: as it is.
        text: as it was read.
        confidence: in 0..1.
        correct: whether the normalised texts are equal.
        height: of the upright image in pixels; 0 when it cannot be read.
        width: likewise.
    """

    set_name: str
    image: Any
    label: str
    text: str
    confidence: float
    correct: bool
    height: int
    width: int


@dataclass(frozen=True)
class GroupAccuracy:
    """Share of right words, or characters, in one group."""

    name: str
    count: int
    correct: int
    accuracy: float
    interval: Interval


def make_records(sets: Sequence[BenchmarkSet], readings: dict[str, Readings]) -> list[WordRecord]:
    """Put together what is known of every compared word (label not empty after normalisation).

    Raises:
        ValueError: for readings without confidences.
    """
    records = []
    for words in sets:
        found = readings[words.name]
        if len(found.confidences) != len(words.labels):
            raise ValueError(
                f"the readings of {words.name!r} have no confidences; only a checkpoint gives them."
            )
        for image, label, text, confidence in zip(
            words.images, words.labels, found.texts, found.confidences, strict=True
        ):
            expected = normalise_alphanumeric(label)
            if not expected:
                continue
            height, width = image_size(image)
            correct = normalise_alphanumeric(text) == expected
            records.append(WordRecord(words.name, image, label, text, confidence, correct, height, width))
    return records


def image_size(image: Any) -> tuple[int, int]:
    """(height, width) of an upright image in pixels; (0, 0) when it cannot be read."""
    try:
        width, height = read_image(image).size
    except (ValueError, OSError):
        return 0, 0
    return height, width


def group_accuracy(name: str, correct: int, count: int) -> GroupAccuracy:
    """A share with its interval.

    Raises:
        ValueError: without any count.
    """
    if count < 1:
        raise ValueError(f"the group {name!r} has no words; leave it out.")
    return GroupAccuracy(name, count, correct, correct / count, wilson_interval(correct, count))


def accuracy_by(
    records: Sequence[WordRecord], group_of: Callable[[WordRecord], str], names: Sequence[str]
) -> list[GroupAccuracy]:
    """Accuracy of each group that has words, in the order of `names`; other groups are left out."""
    members: dict[str, list[bool]] = {name: [] for name in names}
    for record in records:
        members.setdefault(group_of(record), []).append(record.correct)
    return [group_accuracy(name, sum(members[name]), len(members[name])) for name in names if members[name]]


def accuracy_by_length(records: Sequence[WordRecord]) -> list[GroupAccuracy]:
    """By the length of the normalised label, long words together."""
    names = [*map(str, range(1, LONGEST_GROUP)), f"{LONGEST_GROUP} and more"]

    def group_of(record: WordRecord) -> str:
        return names[min(len(normalise_alphanumeric(record.label)), LONGEST_GROUP) - 1]

    return accuracy_by(records, group_of, names)


def accuracy_by_word_kind(records: Sequence[WordRecord]) -> list[GroupAccuracy]:
    """By what the label is made of."""
    return accuracy_by(records, lambda record: word_kind(record.label), WORD_KINDS)


def accuracy_by_height(records: Sequence[WordRecord]) -> list[GroupAccuracy]:
    """By the height of the image; unreadable images belong to no group."""
    ends = [*HEIGHT_STEPS[1:], None]
    names = [
        f"{low} and more" if high is None else f"under {high}" if not low else f"{low} to {high - 1}"
        for low, high in zip(HEIGHT_STEPS, ends, strict=True)
    ]

    def group_of(record: WordRecord) -> str:
        if not record.height:
            return "unreadable"
        return names[sum(record.height >= step for step in HEIGHT_STEPS) - 1]

    return accuracy_by(records, group_of, names)


def word_kind(label: str) -> str:
    """One of `WORD_KINDS`."""
    if not label.isalnum():
        return "with other characters"
    if label.isdigit():
        return "digits"
    if any(character.isdigit() for character in label):
        return "letters and digits"
    if label.islower() or label.isupper():
        return "lower case" if label.islower() else "upper case"
    return "capitalised" if label[0].isupper() and label[1:].islower() else "mixed case"


def accuracy_by_character_kind(records: Sequence[WordRecord], ignore_case: bool) -> list[GroupAccuracy]:
    """Share of label characters of each kind that were read rightly, by edit alignment of the whole texts.

    Args:
        records: of the words.
        ignore_case: whether "a" for "A" is right.
    """
    change = lower_each if ignore_case else str
    aligned = [pair for one in records for pair in align(change(one.text), change(one.label)) if pair.label]
    # Lower-casing hides the kind, so it is taken from the labels as they are.
    labels = "".join(record.label for record in records)
    groups = []
    for name, belongs in CHARACTER_KINDS.items():
        right = [
            pair.label == pair.read
            for pair, character in zip(aligned, labels, strict=True)
            if belongs(character)
        ]
        if right:
            groups.append(group_accuracy(name, sum(right), len(right)))
    return groups


def lower_each(text: str) -> str:
    """Lower-case every character that has one lower-case form of one character, so that lengths stay."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def worst_mistakes(records: Sequence[WordRecord], count: int) -> list[WordRecord]:
    """Readable words that were read wrongly with the highest confidence, the surest first."""
    wrong = [record for record in records if not record.correct and record.height]
    return sorted(wrong, key=lambda record: -record.confidence)[:count]
