"""Metadata: huggingface_hub loads what was written, and every rule of the Hub that is broken is named."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from tests.card_checkpoints import make_results
from training.card_metadata import (
    check_card,
    encoder_metadata,
    evaluation_results,
    lost_links,
    recogniser_metadata,
)

CONFIG = {"model_type": "rcmstr", "decoder_type": "ctc"}


def card_of(data: ModelCardData) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n# A card\n"


def changed(**fields: Any) -> str:
    """A valid card's text with some fields set; None leaves one out."""
    data = recogniser_metadata("mine", CONFIG, make_results("ab"), ["somebody/words"], "apache-2.0", ["en"])
    for name, value in fields.items():
        setattr(data, name, value)
    return card_of(data)


def test_what_was_measured_survives_the_librarys_own_loading() -> None:
    results = make_results("ab")
    data = recogniser_metadata("mine", CONFIG, results, ["somebody/words"], "apache-2.0", ["en"])
    card = check_card(card_of(data))
    assert card.data.to_dict() == data.to_dict()
    assert card.data["eval_results"] == evaluation_results(results)
    assert card.data["pipeline_tag"] == "image-to-text"
    assert card.data["library_name"] == "transformers"
    assert card.data["model_name"] == "mine"


def test_every_entry_has_protocol_n_and_fingerprint() -> None:
    found = evaluation_results(make_results("ab"))
    assert [(one.metric_type, one.metric_value) for one in found] == [
        ("accuracy", 0.805),
        ("accuracy", 0.75),
        ("one_minus_ned", 0.9125),
        ("cer", 0.0951),
    ]
    for one in found:
        assert one.dataset_args == {"protocol": "rule-1", "words": 200, "fingerprint": "0123456789abcdef"}
        assert one.dataset_name == "signs, 200 words"
        assert one.metric_args is not None
    assert [one.metric_args["case_sensitive"] for one in found if one.metric_args] == [
        False,
        True,
        False,
        True,
    ]


def test_a_set_without_a_compared_word_has_no_entry() -> None:
    results = make_results("ab")
    empty = {**results["sets"][0], "name": "dots", "scores": {**results["sets"][0]["scores"], "words": 0}}
    results["sets"].append(empty)
    assert {one.dataset_type for one in evaluation_results(results)} == {"signs"}


def test_without_results_there_is_no_model_index() -> None:
    data = recogniser_metadata("mine", CONFIG, None, [], "apache-2.0", ["en"]).to_dict()
    assert "model-index" not in data
    assert "datasets" not in data
    assert "model-index" not in encoder_metadata(CONFIG, [], "apache-2.0", ["en"]).to_dict()


def test_an_encoder_is_no_reader() -> None:
    card = check_card(card_of(encoder_metadata(CONFIG, ["somebody/crops"], "mit", ["en", "de"])))
    assert card.data["pipeline_tag"] == "image-feature-extraction"
    assert card.data["language"] == ["en", "de"]


def test_a_fingerprint_that_looks_like_a_number_stays_a_text() -> None:
    results = make_results("ab")
    results["sets"][0]["fingerprint"] = "1234567890123456"
    text = card_of(recogniser_metadata("mine", CONFIG, results, [], "apache-2.0", ["en"]))
    (entry, *_) = check_card(text).data["eval_results"]
    assert entry.dataset_args["fingerprint"] == "1234567890123456"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"license": "apache2"}, "`license` must be an identifier of the Hub"),
        ({"license": None}, "`license` must be a text"),
        ({"license": "other"}, "needs a `license_name`"),
        ({"pipeline_tag": "text-recognition"}, "`pipeline_tag` must be a task of the Hub"),
        ({"library_name": None}, "`library_name` must be a text"),
        ({"language": ["English"]}, "`language` must hold ISO 639 codes"),
        ({"language": [False]}, "`language` must hold ISO 639 codes"),
        ({"tags": "ocr"}, "`tags` must be a list of texts"),
        ({"tags": ["ocr", "ocr"]}, "`tags` names something twice"),
        ({"datasets": ["a folder of words"]}, "`datasets`"),
        ({"metrics": [""]}, "`metrics` must be a list of texts"),
    ],
)
def test_a_broken_field_is_named(fields: dict[str, Any], message: str) -> None:
    check_card(changed())
    with pytest.raises(ValueError, match=message):
        check_card(changed(**fields))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value: 0.805", "value: high", "needs `type` and a number"),
        ("value: 0.805", "value: .nan", "which is no number"),
        ("value: 0.805", "value: true", "needs `type` and a number"),
        ("name: signs, 200 words", "name: ''", "`dataset` with `type` and `name`"),
        ("- name: mine", "- name: ''", "needs `name` and `results`"),
        ("license: apache-2.0", "license: apache-2.0\nlicense: mit", "keys that stand twice: license"),
        ("pipeline_tag: image-to-text", "pipeline_tag: [", "not valid YAML"),
    ],
)
def test_a_broken_text_is_named(old: str, new: str, message: str) -> None:
    text = changed()
    assert old in text
    with pytest.raises(ValueError, match=message):
        check_card(text.replace(old, new, 1))


@pytest.mark.parametrize("text", ["# no metadata", "---\n- a\n---\n# a list", "---\nlicense: mit\n"])
def test_a_card_without_metadata_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        check_card(text)


def test_links_must_lead_to_files_beside_the_card(tmp_path: Path) -> None:
    text = changed() + "![words](card/a.jpg) [site](https://example.org) [below](#limits) [b](b.md)\n"
    assert lost_links(text, tmp_path) == ["card/a.jpg", "b.md"]
    with pytest.raises(ValueError, match=r"card/a\.jpg, b\.md"):
        check_card(text, tmp_path)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "a.jpg").touch()
    (tmp_path / "b.md").touch()
    assert isinstance(check_card(text, tmp_path), ModelCard)
