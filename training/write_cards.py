"""Write every model card from the numbers that were measured, or tell which are out of date.

All cards of the repository: hub_cards/ and that of the bundled recogniser:
    python -m training.write_cards
Only look whether they are up to date (exit status 1 when not):
    python -m training.write_cards --check
Let the bundled recogniser read the card's words again, and draw the pictures anew:
    python -m training.write_cards --pictures
The README.md of a checkpoint of your own, recogniser or pretrained encoder (without --pictures):
    python -m training.write_cards runs/mine/final --repo-id me/my-words --pictures
Every card also as a page, to look at before it is published:
    python -m training.write_cards --html runs/cards

What each card is made from, and where a person states what no program can know: `training/model_card.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from training.card_metadata import check_card
from training.card_pictures import CARD_FOLDER, write_card_pictures
from training.card_preview import write_preview
from training.fill_results import fill
from training.model_card import FAMILY_CARDS, file_digest, render_card
from training.study_card import study_summary

STUDIES = FAMILY_CARDS.parent / "docs" / "study"
# The repository names no account: who publishes gives the real name to publish_checkpoint.
DEFAULT_REPO_ID = "ORG/rcmstr-default"


@dataclass(frozen=True)
class Card:
    """A card and how its text comes to be."""

    path: Path
    render: Callable[[], str]


def main(argv: Sequence[str]) -> int:
    """Arguments → pictures → cards → files; the exit status is 1 when `--check` found one out of date."""
    options = parse_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    own = [Path(place) for place in options.checkpoints]
    if options.pictures:
        for folder in own or [default_checkpoint()]:
            print(f"written: {write_card_pictures(folder)}")
    cards = [checkpoint_card(folder, options.repo_id) for folder in own] or repository_cards()
    # All are rendered before the first is written, so that a refused one leaves the others as they were.
    texts = {card.path: card.render() for card in cards}
    stale = [path for path, text in texts.items() if not path.is_file() or _read(path) != text]
    for path, text in texts.items():
        check_card(text, path.parent)
        if options.html is not None:
            print(f"written: {write_preview(text, path, Path(options.html))}")
        if path in stale and not options.check:
            _replace(path, text)
    for path in stale:
        print(f"{path}: {'out of date' if options.check else 'updated'}")
    return int(options.check and bool(stale))


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.write_cards", description="Write model cards from measured numbers."
    )
    parser.add_argument("checkpoints", nargs="*", help="checkpoint folders; default: the repository's cards")
    parser.add_argument("--repo-id", help="of a checkpoint on the Hub, owner/name")
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is out of date")
    parser.add_argument("--pictures", action="store_true", help="read the card's words and draw them anew")
    parser.add_argument("--html", metavar="FOLDER", help="also write each card as a page to look at")
    options = parser.parse_args(argv)
    if options.check and options.pictures:
        parser.error("--check writes nothing, so it draws no pictures either; leave one of the two out")
    if options.repo_id and len(options.checkpoints) != 1:
        parser.error("--repo-id names one checkpoint; give its folder")
    return options


def repository_cards() -> list[Card]:
    """The bundled recogniser's two cards and one for each family."""
    default = default_checkpoint()
    place = os.path.relpath(default / CARD_FOLDER, FAMILY_CARDS)
    return [
        checkpoint_card(default, None),
        Card(
            FAMILY_CARDS / "default.md",
            lambda: render_card(default, DEFAULT_REPO_ID, pictures=Path(place).as_posix()),
        ),
        *(family_card(FAMILY_CARDS / f"{family}.md", STUDIES / family) for family in ("rcmstr", "persec")),
    ]


def checkpoint_card(folder: Path, repo_id: str | None) -> Card:
    """The README.md beside a checkpoint's weights."""
    return Card(folder / "README.md", lambda: render_card(folder, repo_id))


def family_card(path: Path, study: Path) -> Card:
    """A family's card, written by a person, with the numbers of its study filled in."""

    def render() -> str:
        results = study / "results.json"
        summary = study_summary(json.loads(_read(results)))
        return fill(_read(path), {"study": f"{summary}\n\n<!-- results.json {file_digest(results)} -->"})

    return Card(path, render)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _replace(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.unfinished")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
