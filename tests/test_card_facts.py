"""What a card knows of a checkpoint: its network, its data and their rights, and no path of a machine."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from tests.card_checkpoints import make_recogniser, write_json
from training.card_facts import (
    charset_of_folder,
    count_weights,
    describe_characters,
    describe_encoder,
    describe_recogniser,
    describe_start,
    public_name,
    read_json,
    read_sources,
    read_statements,
    split_sections,
)


def test_weights_are_counted_from_all_shards(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, str(tmp_path / "model-1.safetensors"))
    save_file({"c": torch.zeros(5), "d": torch.zeros(())}, str(tmp_path / "model-2.safetensors"))
    assert count_weights(tmp_path) == 6 + 4 + 5 + 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cnn_type": "trba"}, ["TRBA", "(128, 256, 512, 512 channels)"]),
        ({"cnn_type": "trba", "hidden_sizes": (32, 64, 128, 160)}, ["at a narrow width", "160 channels"]),
        ({"cnn_type": "resnet45"}, ["ResNet45 of ABINet"]),
        ({"encoder_type": "vit"}, ["12 layers, 384 wide", "4x4 pixels"]),
    ],
)
def test_encoders_are_told_apart(fields: dict[str, Any], words: list[str]) -> None:
    described = describe_encoder(RCMSTRConfig(**fields).to_dict())
    assert all(word in described for word in words), described
    assert ("narrow" in described) == ("hidden_sizes" in fields)


def test_heads_are_told_apart() -> None:
    config = {**RCMSTRConfig().to_dict(), "architectures": ["RCMSTRForTextRecognition"]}
    config["head_bilstm_layers"] = 2
    assert "with 2 bidirectional LSTM layers and CTC over 3 characters" in describe_recogniser(
        config, set("abc")
    )
    config |= {"head_bilstm_layers": 0, "decoder_type": "attention"}
    assert "with an attention decoder over 3 characters" in describe_recogniser(config, set("abc"))


def test_charsets_have_their_names() -> None:
    ascii_95 = set(string.printable) - set("\t\n\r\x0b\x0c")
    assert describe_characters(ascii_95) == "the 95 printable ASCII characters"
    assert "94" in describe_characters(ascii_95 - {" "})
    assert describe_characters(ascii_95 | set("éß")) == "97 characters, among them ßé"
    assert describe_characters(set("0123")) == "4 characters"


def test_special_tokens_are_no_characters(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    found = charset_of_folder(make_recogniser(tmp_path / "mine", tiny_config))
    assert found == set(string.digits + string.ascii_lowercase)
    with pytest.raises(ValueError, match=r"holds no vocab\.json"):
        charset_of_folder(tmp_path)


def test_what_training_began_from_is_said() -> None:
    record = {"settings": {"model": "a/model.json"}, "machine": {"gpu": None}}
    assert "from scratch, with labels, on the CPU. No self-supervised" in describe_start(record)
    record = {"settings": {"model": "/home/me/encoder", "freeze_encoder": True}, "machine": {"gpu": "A card"}}
    sentence = describe_start(record)
    assert "on A card, from the checkpoint `encoder` whose encoder stayed" in sentence
    assert "/home" not in sentence


RECORD = {
    "settings": {"train_sources": {"folder:/home/me/crops": 1, "datasets:somebody/words?split=train": 3}},
    "data": {
        "sources": [{"source": "folder:/home/me/crops", "held_out": 7}],
        "counts": {"read folder:/home/me/crops": 250, "read datasets:somebody/words?split=train": 750},
    },
}


def test_shares_are_those_of_the_words_that_were_read(tmp_path: Path) -> None:
    crops, words = read_sources(tmp_path, RECORD)
    assert (crops.name, crops.rights, crops.dataset) == ("`folder:crops`", "not stated", None)
    assert (crops.words, crops.share, crops.held_out) == (250, 0.25, 7)
    assert (words.dataset, words.share) == ("somebody/words", 0.75)


def test_a_person_states_names_and_rights(tmp_path: Path) -> None:
    path = tmp_path / "card" / "training_data.json"
    write_json(path, {"folder:/home/me/crops": {"name": "my crops", "rights": "mine", "dataset": "me/crops"}})
    crops = read_sources(tmp_path, RECORD)[0]
    assert (crops.name, crops.rights, crops.dataset) == ("my crops", "mine", "me/crops")
    write_json(path, {"folder:other": {"name": "x", "rights": "y"}})
    with pytest.raises(ValueError, match=r"speaks of \['folder:other'\]"):
        read_sources(tmp_path, RECORD)
    write_json(path, {"folder:/home/me/crops": {"name": "my crops"}})
    with pytest.raises(ValueError, match="needs `name` and `rights`"):
        read_sources(tmp_path, RECORD)


def test_a_record_without_counts_claims_no_shares(tmp_path: Path) -> None:
    (source,) = read_sources(tmp_path, {"settings": {"train_sources": {"folder:a": 1}}})
    assert (source.words, source.share, source.held_out) == (None, None, 0)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("folder:/home/me/words", "folder:words"),
        ("parquet:words/ic15.parquet", "parquet:ic15.parquet"),
        ("datasets:somebody/words?split=train", "datasets:somebody/words"),
        ("stream:somebody/words", "stream:somebody/words"),
        ("/home/me/words", "words"),
        ("", ""),
    ],
)
def test_names_in_public_hold_no_folder_of_a_machine(source: str, name: str) -> None:
    assert public_name(source) == name


def test_statements_are_sections(tmp_path: Path) -> None:
    assert read_statements(tmp_path) == {}
    path = tmp_path / "card" / "statements.md"
    path.parent.mkdir()
    path.write_text("## About\n\nOne.\n\n## Limits\n- a\n- b\n", encoding="utf-8")
    assert read_statements(tmp_path) == {"About": "One.", "Limits": "- a\n- b"}


@pytest.mark.parametrize("text", ["before\n## A\n", "## A\nx\n## A\ny\n"])
def test_text_without_its_heading_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="sections under headings"):
        split_sections(text, "a file")


def test_broken_json_is_named(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
