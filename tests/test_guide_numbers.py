"""Numbers that the guides quote are those of the tables that commands wrote."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
# A difference or a mean, perhaps with its interval: 6.9 (0.7 to 13.1).
QUOTED = re.compile(r"(\d+\.\d+)(?: %| points)?(?: \((\d+\.\d+) to (\d+\.\d+)\))?")


def quoted(text: str) -> list[tuple[str, ...]]:
    """What a text quotes, signs left out, as a table's column may count a loss where the text says so."""
    return QUOTED.findall(re.sub(r"[+-](?=\d)", "", " ".join(text.split())))


def section(guide: str, title: str) -> str:
    """What stands under a title of a guide, up to the next of the same kind or above."""
    text = (DOCS / guide).read_text(encoding="utf-8")
    depth = title.index(" ")
    start = text.index(f"\n{title}\n") + len(title) + 2
    return re.split(rf"\n#{{1,{depth}}} ", text[start:], maxsplit=1)[0]


@pytest.mark.parametrize(
    ("guide", "title", "table"),
    [
        ("pretraining.md", "### RCMSTR", "study/rcmstr/study.md"),
        ("pretraining.md", "### PerSec", "study/persec/study.md"),
        ("fine_tuning.md", "### On drawn words", "label_efficiency/drawn/label_efficiency.md"),
        ("fine_tuning.md", "### On ICDAR 2015's words", "label_efficiency/ic15/label_efficiency.md"),
    ],
)
def test_a_guide_quotes_its_table(guide: str, title: str, table: str) -> None:
    found = quoted(section(guide, title))
    assert len(found) > 3
    known = quoted((DOCS / table).read_text(encoding="utf-8"))
    means = {mean for mean, _, _ in known}
    both_ways = set(known) | {(mean, high, low) for mean, low, high in known}
    for one in found:
        mean, low, _ = one
        assert (one in both_ways) if low else (mean in means), f"{one} is not in {table}"
