"""Whom to cite and whose patents to know: what every card says of its family, from CITATION.cff."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CITATION = Path(__file__).resolve().parent.parent / "CITATION.cff"
PATENTS = (
    "the holders of patents on text recognition and its pretraining are many, and a patent family with "
    "authors of PerSec among its inventors is known (US12315278). Whether that concerns your use is "
    "a question for your lawyer."
)
# Model type → name of the family, its paper as a link, and an identifier of the paper in CITATION.cff.
FAMILIES = {
    "rcmstr": ("RCMSTR", "[arXiv:2411.11219](https://arxiv.org/abs/2411.11219)", "arXiv:2411.11219"),
    "persec": ("PerSec", "[AAAI 2022](https://doi.org/10.1609/aaai.v36i2.20062)", "10.1609/aaai.v36i2.20062"),
}


def bibtex(model_type: str) -> str:
    """The paper of a family and the software as BibTeX, from CITATION.cff."""
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    wanted = FAMILIES[model_type][2]
    (paper,) = [one for one in citation["references"] if wanted in str(one)]
    fields = {
        "title": f"{{{paper['title']}}}",
        "author": " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]),
        "year": paper["year"],
        "journal": f"{paper['journal']} {wanted}" if "journal" in paper else None,
        "booktitle": paper.get("collection-title"),
        "volume": paper.get("volume"),
        "number": paper.get("issue"),
        "pages": f"{paper['start']}--{paper['end']}" if "start" in paper else None,
        "doi": paper.get("doi"),
    }
    software = {
        "title": f"{{{citation['title']}}}",
        "author": " and ".join(f"{{{one['name']}}}" for one in citation["authors"]),
        "version": citation["version"],
        "license": citation["license"],
    }
    kind = "article" if "journal" in paper else "inproceedings"
    return "\n".join(
        [
            *_bibtex_entry(kind, model_type, fields),
            "",
            *_bibtex_entry("software", "modeling_rcmstr", software),
        ]
    )


def _bibtex_entry(kind: str, key: str, fields: Mapping[str, Any]) -> list[str]:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return [f"@{kind}{{{key},", *lines, "}"]
