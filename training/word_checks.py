"""What is wrong with the words of a source, row by row and pair by pair, as data; nothing stops the check."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from modeling_rcmstr import CharacterTokenizer
from modeling_rcmstr.image_reading import read_image
from training.collation import UNREADABLE
from training.near_duplicates import PictureIndex
from training.source_interface import WordSource
from training.word_rows import WordRow, read_rows

# In the order in which they are reported.
KINDS = {
    "unreadable": "image that cannot be read",
    "no_label": "row without a label",
    "empty_label": "empty label",
    "outside_charset": "label with characters outside the charset",
    "too_long": "label longer than the limit",
    "exact_duplicate": "same pixels as an earlier row",
    "near_duplicate": "same picture as an earlier row",
    "in_test_set": "same picture as a row of the test source",
    "label_conflict": "same picture as another row, with another label",
}
SAMPLE_WORDS = 96
# Words with a finding that are kept to be shown.
SHOWN_WORDS = 48


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one row.

    Args:
        kind: a key of `KINDS`.
        row: number of the row in its source.
        reason: in words.
    """

    kind: str
    row: int
    reason: str


@dataclass(frozen=True)
class LabelRules:
    """What labels must keep.

    Args:
        charset: a name or the characters; None for no rule.
        max_length: characters, at most; None for no rule.
        labelled: whether there are labels at all.
    """

    charset: str | None = None
    max_length: int | None = None
    labelled: bool = True

    def check(self, row: int, text: str) -> tuple[list[Finding], str]:
        """Findings of a label, and its characters outside the charset."""
        if not self.labelled:
            return [], ""
        if not text.strip():
            return [Finding("empty_label", row, f"the label is {text!r}; write it, or drop the row.")], ""
        findings, outside = [], ""
        if self.charset is not None:
            tokenizer = _tokenizer(self.charset)
            text = tokenizer.normalize(text)
            outside = "".join(sorted(set(text) - set(tokenizer.charset)))
            if outside:
                reason = f"{text!r} has {outside!r}; extend the charset, or drop the row."
                findings.append(Finding("outside_charset", row, reason))
        if self.max_length is not None and len(text) > self.max_length:
            reason = f"{text!r} has {len(text)} characters, the limit is {self.max_length}."
            findings.append(Finding("too_long", row, reason))
        return findings, outside


@dataclass
class ShownWord:
    """A word to be drawn: its picture, or None, with its label and what was found."""

    row: int
    picture: Image.Image | None
    text: str
    reason: str = ""


@dataclass
class SourceCheck:
    """Everything that was found in one source.

    Args:
        name: of the source.
        rows: that were looked at.
        findings: in the order in which they were found.
        characters: how often each comes in the labels.
        outside: in how many labels each character outside the charset comes.
        lengths: number of labels of each length.
        sizes: smallest and largest (width, height) seen, each side by itself.
        numbers: row of each readable image, in the order of the picture index.
        sample: words spread over the source.
        shown: the first words with a finding.
    """

    name: str
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    sample: list[ShownWord] = field(default_factory=list)
    shown: list[ShownWord] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind that there is."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def reasons(self) -> dict[int, str]:
        """The findings of each row in one line: what to leave out and why."""
        reasons: dict[int, list[str]] = {}
        for finding in self.findings:
            reasons.setdefault(finding.row, []).append(f"{KINDS[finding.kind]}: {finding.reason}")
        return {row: " ".join(texts) for row, texts in reasons.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        return {
            "source": self.name,
            "rows": self.rows,
            "counts": self.counts(),
            "findings": [{"kind": f.kind, "row": f.row, "reason": f.reason} for f in self.findings],
            "characters": dict(sorted(self.characters.items())),
            "characters_outside_the_charset": dict(sorted(self.outside.items())),
            "label_lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "image_width": self.sizes[:2],
            "image_height": self.sizes[2:],
        }


def check_rows(
    source: WordSource,
    stop: int | None,
    rules: LabelRules,
    pictures: PictureIndex,
    advance: Callable[[int], object],
) -> SourceCheck:
    """Look at every row of a source.

    Args:
        source: opened with labels when `rules` asks for them.
        stop: rows to look at; None for a stream to its end.
        rules: of the labels.
        pictures: takes every readable image.
        advance: called with the number of rows done.
    """
    check = SourceCheck(source.name)
    chooser = random.Random(0)
    for row in read_rows(source, 0, stop):
        findings, image = _check_row(source, row, rules, check)
        if image is not None:
            pictures.add(image, row.text)
            check.numbers.append(row.index)
        check.findings += findings
        _keep(check, row, image, findings, chooser)
        check.rows += 1
        advance(1)
    return check


def add_duplicates(
    train: SourceCheck, test: SourceCheck | None, pictures: PictureIndex, pairs: Iterable[Any]
) -> None:
    """Turn pairs of pictures into findings; a picture of both sources is one of the training source.

    Args:
        train: its pictures come first in the index.
        test: its pictures come after them.
        pictures: of both.
        pairs: of `PictureIndex.duplicates`.
    """
    border = len(train.numbers)
    for pair in pairs:
        one, other = pair.first, pair.second
        same = pictures.labels[one].casefold() == pictures.labels[other].casefold()
        kind = "exact_duplicate" if pair.exact else "near_duplicate"
        labels = f"{pictures.labels[one]!r} and {pictures.labels[other]!r}"
        if test is not None and one < border <= other:
            row, twin = train.numbers[one], test.numbers[other - border]
            how = "the same pixels as" if pair.exact else "the same picture as"
            train.findings.append(Finding("in_test_set", row, f"{how} row {twin} of {test.name}: {labels}."))
            continue
        check, shift = (train, 0) if other < border or test is None else (test, border)
        first, second = check.numbers[one - shift], check.numbers[other - shift]
        check.findings.append(Finding(kind, second, f"row {first} is the same: {labels}."))
        if not same:
            check.findings.append(Finding("label_conflict", second, f"row {first} says otherwise: {labels}."))


def _check_row(
    source: WordSource, row: WordRow, rules: LabelRules, check: SourceCheck
) -> tuple[list[Finding], Image.Image | None]:
    if row.fault is not None:
        return [Finding(_kind_of_fault(source, row), row.index, row.fault)], None
    findings, outside = rules.check(row.index, row.text)
    if rules.labelled:
        check.characters.update(row.text)
        check.outside.update(outside)
        check.lengths[len(row.text)] += 1
    try:
        image = read_image(row.content)
    except UNREADABLE as error:
        return [*findings, Finding("unreadable", row.index, " ".join(str(error).split()))], None
    width, height = image.size
    low_w, high_w, low_h, high_h = check.sizes or (width, width, height, height)
    check.sizes = [min(low_w, width), max(high_w, width), min(low_h, height), max(high_h, height)]
    return findings, image


def _kind_of_fault(source: WordSource, row: WordRow) -> str:
    """Whether it is the label that is missing, or the image."""
    try:
        source.text(row.index)
    except UNREADABLE:
        return "no_label"
    return "unreadable"


def _keep(
    check: SourceCheck,
    row: WordRow,
    image: Image.Image | None,
    findings: list[Finding],
    chooser: random.Random,
) -> None:
    """Keep some words to be drawn: the first with a finding, and a sample of all (algorithm R)."""
    if findings and len(check.shown) < SHOWN_WORDS:
        check.shown.append(ShownWord(row.index, image, row.text, findings[0].kind.replace("_", " ")))
    place = check.rows if check.rows < SAMPLE_WORDS else chooser.randrange(check.rows + 1)
    if place < SAMPLE_WORDS:
        check.sample[place : place + 1] = [ShownWord(row.index, image, row.text)]


_tokenizers: dict[str, CharacterTokenizer] = {}


def _tokenizer(charset: str) -> CharacterTokenizer:
    """The tokenizer that a recogniser of this charset has, so that labels are judged as in training."""
    if charset not in _tokenizers:
        _tokenizers[charset] = CharacterTokenizer(charset=charset)
    return _tokenizers[charset]
