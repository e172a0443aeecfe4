"""A card says what lies beside the weights, admits what does not, and refuses numbers of other weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.card_checkpoints import make_encoder, make_recogniser, write_json
from training.benchmark_measurement import checkpoint_hash
from training.card_metadata import check_card
from training.fill_results import results_table
from training.model_card import describe_files, describe_number, family_sections, render_card

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def recogniser(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A checkpoint with results and a training record."""
    return make_recogniser(tmp_path / "mine", tiny_config)


def sections(text: str) -> dict[str, str]:
    """Heading → text below it."""
    _, *rest = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_a_recognisers_card_holds_every_number_of_its_files(recogniser: Path) -> None:
    text = render_card(recogniser, "me/my-words").replace("\u00a0", " ")
    found = sections(text)
    results = json.loads((recogniser / "results.json").read_text(encoding="utf-8"))
    assert results_table(results) in found["Results"]
    assert "| all words | 200 | 4.6 | 68.4 | 0.912 |" in found["How far to trust the score"]
    assert "in 15 bins" in found["How far to trust the score"]
    assert "| rotation (degrees) | 80.0 | 70.0 (at 5) | 12.3 (at 10) |" in found["When images get worse"]
    assert "on 250 of the measured words" in found["When images get worse"]
    assert "| `folder:crops` | 6,400 | 1.00 | 12 | not stated |" in found["Training data"]
    assert "1,234 steps, 6,400 words, 7 minutes; A processor, 2 threads" in found["Training data"]
    assert "Speed" not in found
    assert "over 36 characters" in text
    assert "/home/me" not in text


def test_usage_is_by_repository_id_and_through_the_package(recogniser: Path) -> None:
    by_id, installed = code_blocks(render_card(recogniser, "me/my-words"), "python")
    assert 'pipeline("text-recognition", model="me/my-words", trust_remote_code=True)' in by_id
    assert len([line for line in by_id.splitlines() if line]) == 3
    assert "import modeling_rcmstr" in installed
    assert "trust_remote_code" not in installed


def test_metadata_are_those_of_the_measurement(recogniser: Path) -> None:
    card = ModelCard(render_card(recogniser, "me/my-words", licence="mit", languages=["en", "de"]))
    assert card.data["license"] == "mit"
    assert card.data["language"] == ["en", "de"]
    assert card.data["model_name"] == "my-words"
    assert [one.metric_value for one in card.data["eval_results"]] == [0.805, 0.75, 0.9125, 0.0951]
    assert {"rcmstr", "ctc", "ocr"} <= set(card.data["tags"])


def test_what_is_missing_is_said_and_not_invented(recogniser: Path) -> None:
    (recogniser / "training_record.json").unlink()
    results = json.loads((recogniser / "results.json").read_text(encoding="utf-8"))
    del results["calibration"], results["robustness"]
    write_json(recogniser / "results.json", results)
    found = sections(render_card(recogniser, "me/my-words"))
    assert (
        "not stated: the results beside the weights were measured before"
        in found["How far to trust the score"]
    )
    assert "When images get worse" not in found
    assert "no `training_record.json`" in found["Training data"]
    assert "No pictures were drawn" in found["Reads well, reads badly"]
    (recogniser / "results.json").unlink()
    text = render_card(recogniser, "me/my-words")
    assert "Not measured yet" in sections(text)["Results"]
    assert "results beside the weights are missing" in text
    assert "model-index" not in text


@pytest.mark.parametrize("file", ["results.json", "speed.json", "card/readings.json"])
def test_numbers_of_other_weights_are_refused(recogniser: Path, file: str) -> None:
    own = checkpoint_hash(recogniser)
    content = {
        "results.json": {**json.loads((recogniser / "results.json").read_text(encoding="utf-8"))},
        "speed.json": {"checkpoint_sha256": "0" * 64},
        "card/readings.json": {"checkpoint_sha256": "0" * 64, "words": []},
    }[file]
    if file == "results.json":
        content["checkpoint"] = {"name": "mine", "sha256": "0" * 64}
    write_json(recogniser / file, content)
    with pytest.raises(ValueError, match=f"other weights \\({'0' * 16}\\).*{own[:16]}"):
        render_card(recogniser, "me/my-words")


def test_statements_reach_their_sections_and_none_is_lost(recogniser: Path) -> None:
    path = recogniser / "card" / "statements.md"
    path.parent.mkdir()
    headings = ["About", "Results", "Reads well, reads badly", "Training data", "Limits"]
    path.write_text("".join(f"## {h}\n\nSaid of {h}.\n\n" for h in headings), encoding="utf-8")
    text = render_card(recogniser, "me/my-words")
    found = sections(text)
    for heading in headings[1:]:
        assert f"Said of {heading}." in found[heading]
    assert "Said of About." in text.split("\n## ")[0]
    path.write_text("## Weather\n\nFine.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"sections that the card lacks: \['Weather'\]"):
        render_card(recogniser, "me/my-words")


def test_pictures_stand_beside_the_card_with_words_for_those_who_do_not_see_them(recogniser: Path) -> None:
    words = [
        {"kind": "neon", "label": "[A]", "text": "[A]", "score": 0.9},
        {"kind": "curved", "label": "$5", "text": "S5", "score": 0.1},
    ]
    content = {"checkpoint_sha256": checkpoint_hash(recogniser), "words": words}
    write_json(recogniser / "card" / "readings.json", content)
    for name in ("reads_rightly.jpg", "reads_wrongly.jpg"):
        (recogniser / "card" / name).touch()
    text = render_card(recogniser, "me/my-words")
    assert "1 of 2 words" in text
    assert r"![\[A\] (neon)](card/reads_rightly.jpg)" in text
    assert r"![\$5 read as S5](card/reads_wrongly.jpg)" in text
    check_card(text, recogniser)
    assert "](../mine/card/reads_wrongly.jpg)" in render_card(recogniser, None, pictures="../mine/card")


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_an_encoders_card_says_what_it_learnt_from(
    tmp_path: Path, tiny_config: Callable[..., Any], family: str
) -> None:
    folder = make_encoder(tmp_path / "runs" / "crops" / "final", tiny_config, family)
    text = render_card(folder, "me/my-encoder")
    card = check_card(text)
    found = sections(text)
    assert card.data["pipeline_tag"] == "image-feature-extraction"
    assert card.data["datasets"] == ["somebody/crops"]
    assert card.data["eval_results"] is None
    pretrained = found["What it was pretrained on"]
    assert (
        "2,500 updates of 64 words, 160,000 words in all, 30.0 minutes on 4 processes; A card" in pretrained
    )
    assert "| weighted sum | 6.543 |" in pretrained
    assert "| contrastive loss | 5.432 |" in pretrained
    assert "| 2500 | 32.1 | 65.4 | 42.3 |" in pretrained
    assert "CTC head on the frozen encoder read on 50 words of `folder:labelled`" in pretrained
    assert "model=encoder" in found["Train a recogniser on it"]
    assert found["What it learns from"].strip() == family_sections(family)["What it learns from"]
    assert "../" not in text
    assert ("US20230260304A1" in text) == (family == "persec")
    # On disk it is called after its run.
    assert "\n# crops\n" in render_card(folder, None)


def test_an_encoder_without_a_record_or_probe_admits_it(
    tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    folder = make_encoder(tmp_path / "mine", tiny_config)
    record = json.loads((folder / "training_record.json").read_text(encoding="utf-8"))
    write_json(folder / "training_record.json", {**record, "probes": []})
    assert "No probe was asked for" in render_card(folder, None)
    (folder / "training_record.json").unlink()
    assert "no `training_record.json`" in render_card(folder, None)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no checkpoint of rcmstr or persec"):
        render_card(tmp_path, "me/x")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match="of another model type"):
        render_card(tmp_path, "me/x")


def test_a_repository_id_of_another_form_is_refused(recogniser: Path) -> None:
    with pytest.raises(ValueError, match="Repo id"):
        render_card(recogniser, "me/my/words")


def test_a_changed_digit_of_any_file_changes_the_card(recogniser: Path) -> None:
    before = describe_files(recogniser)
    assert before.startswith("results.json ")
    path = recogniser / "results.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.8541", "0.8542"), encoding="utf-8")
    assert describe_files(recogniser) != before
    assert describe_files(recogniser) in render_card(recogniser, None)


def test_commands_of_the_templates_name_what_exists() -> None:
    for template in ("recogniser_card.md", "encoder_card.md"):
        text = (ROOT / "training" / template).read_text(encoding="utf-8")
        for module in re.findall(r"-m (training\.\w+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        for path in re.findall(r"training/[\w/]+\.(?:yaml|md)", text):
            assert (ROOT / path).is_file()


@pytest.mark.parametrize(("number", "text"), [(999, "999"), (99_999, "99,999"), (2_081_410, "2.1 million")])
def test_large_numbers_are_for_people(number: int, text: str) -> None:
    assert describe_number(number) == text
