"""The repository's cards are those of its numbers: a digit that differs, in a card or a file, is found."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from modeling_rcmstr import default_checkpoint
from tests.card_checkpoints import make_recogniser
from training import card_pictures, write_cards
from training.card_metadata import check_card
from training.write_cards import family_card, main, repository_cards

CARDS = {
    card.path.relative_to(write_cards.FAMILY_CARDS.parent).as_posix(): card for card in repository_cards()
}


@pytest.fixture
def recogniser(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A checkpoint with results, and its card."""
    folder = make_recogniser(tmp_path / "mine", tiny_config)
    assert main([str(folder), "--repo-id", "me/my-words"]) == 0
    return folder


def change_digit(path: Path, place: int) -> None:
    """Replace the digit at a place, counted over the digits of a file."""
    text = path.read_text(encoding="utf-8")
    found = list(re.finditer(r"\d", text))[place]
    other = str((int(found[0]) + 1) % 10)
    path.write_text(text[: found.start()] + other + text[found.end() :], encoding="utf-8")


def test_there_is_a_card_for_every_checkpoint_and_family() -> None:
    assert set(CARDS) == {
        "modeling_rcmstr/checkpoints/default/README.md",
        "hub_cards/default.md",
        "hub_cards/rcmstr.md",
        "hub_cards/persec.md",
    }
    on_disk = {path.stem for path in write_cards.FAMILY_CARDS.glob("*.md")}
    assert on_disk == {"default", "rcmstr", "persec"}


@pytest.mark.parametrize("name", CARDS)
def test_cards_of_the_repository_are_up_to_date_and_valid(name: str) -> None:
    card = CARDS[name]
    text = card.path.read_text(encoding="utf-8")
    assert card.render() == text, "run `python -m training.write_cards`"
    loaded = check_card(text, card.path.parent)
    assert loaded.data.to_dict() == ModelCard.load(card.path).data.to_dict()
    assert loaded.data["library_name"] == "transformers"


def test_the_default_cards_numbers_are_those_of_its_results() -> None:
    """Read back from the metadata, against the file, without the code that wrote them."""
    results = json.loads((default_checkpoint() / "results.json").read_text(encoding="utf-8"))
    for name in ("modeling_rcmstr/checkpoints/default/README.md", "hub_cards/default.md"):
        entries = ModelCard.load(CARDS[name].path).data["eval_results"]
        assert len(entries) == 4 * len(results["sets"])
        for one in results["sets"]:
            own = [entry for entry in entries if entry.dataset_type == one["name"]]
            for entry in own:
                assert entry.dataset_args["words"] == one["scores"]["words"]
                assert entry.dataset_args["fingerprint"] == one["fingerprint"]
                assert entry.dataset_args["protocol"] == results["protocol"]["name"]
            cased = {
                entry.metric_args["case_sensitive"]: entry for entry in own if entry.metric_type == "accuracy"
            }
            share = one["scores"]["correct"] / one["scores"]["words"]
            assert cased[False].metric_value == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("number", ["0.805", '"correct": 161', "0.0951", "101.5", "0.9123", '"threads": 2'])
def test_a_changed_digit_of_the_results_is_found(recogniser: Path, number: str) -> None:
    """Of those that the card shows and of those that it does not."""
    options = [str(recogniser), "--repo-id", "me/my-words", "--check"]
    assert main(options) == 0
    path = recogniser / "results.json"
    text = path.read_text(encoding="utf-8")
    assert number in text
    other = number[:-1] + str((int(number[-1]) + 1) % 10)
    path.write_text(text.replace(number, other, 1), encoding="utf-8")
    assert main(options) == 1


@pytest.mark.parametrize("place", [0, 20, 50, -1])
def test_a_changed_digit_of_the_card_is_found(
    recogniser: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    change_digit(recogniser / "README.md", place)
    options = [str(recogniser), "--repo-id", "me/my-words"]
    assert main([*options, "--check"]) == 1
    assert "README.md: out of date" in capsys.readouterr().out
    assert main(options) == 0
    assert "README.md: updated" in capsys.readouterr().out
    assert main([*options, "--check"]) == 0


@pytest.mark.parametrize("tampered", ["card", "results.json"])
def test_a_changed_digit_of_a_study_is_found(tmp_path: Path, tampered: str) -> None:
    study = shutil.copytree(write_cards.STUDIES / "rcmstr", tmp_path / "study")
    path = Path(shutil.copy(write_cards.FAMILY_CARDS / "rcmstr.md", tmp_path))
    card = family_card(path, study)
    assert card.render() == path.read_text(encoding="utf-8")
    if tampered == "card":
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("16,000 words seen", "16,001 words seen"), encoding="utf-8")
    else:
        change_digit(study / "results.json", -1)
    assert card.render() != path.read_text(encoding="utf-8")


def test_a_refused_card_leaves_what_was_there(recogniser: Path) -> None:
    before = (recogniser / "README.md").read_bytes()
    text = (recogniser / "results.json").read_text(encoding="utf-8")
    (recogniser / "results.json").write_text(text.replace('"sha256": "', '"sha256": "0'), encoding="utf-8")
    with pytest.raises(ValueError, match="other weights"):
        main([str(recogniser)])
    assert (recogniser / "README.md").read_bytes() == before
    assert not list(recogniser.glob(".*"))


def test_pictures_and_pages_are_written_when_asked_for(
    recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = card_pictures.card_words()[:2]
    monkeypatch.setattr(card_pictures, "card_words", lambda: words)
    assert main([str(recogniser), "--pictures", "--html", str(tmp_path / "pages")]) == 0
    assert "card/reads_wrongly.jpg" in (recogniser / "README.md").read_text(encoding="utf-8")
    page = (tmp_path / "pages" / "mine-README.html").read_text(encoding="utf-8")
    assert 'src="../mine/card/reads_wrongly.jpg"' in page


@pytest.mark.parametrize("options", [["--check", "--pictures"], ["--repo-id", "me/x"]])
def test_options_that_contradict_each_other_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
