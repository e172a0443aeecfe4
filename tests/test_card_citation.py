"""Citations are those of CITATION.cff, and the sentence about patents is the README's."""

import re
from pathlib import Path

import pytest
import yaml

from training.card_citation import CITATION, FAMILIES, PATENTS, bibtex

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_paper_and_the_software(family: str) -> None:
    text = bibtex(family)
    entries = re.findall(r"^@(\w+)\{(\w+),$", text, flags=re.MULTILINE)
    assert entries == [
        ("article" if family == "rcmstr" else "inproceedings", family),
        ("software", "modeling_rcmstr"),
    ]
    assert text.count("{") == text.count("}")
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    (paper,) = [one for one in citation["references"] if FAMILIES[family][2] in str(one)]
    assert paper["title"] in text
    assert all(author["family-names"] in text for author in paper["authors"])
    assert FAMILIES[family][2] in text
    assert str(citation["version"]) in text


def test_cards_say_of_patents_what_the_readme_says() -> None:
    assert PATENTS in " ".join(README.read_text(encoding="utf-8").split())
