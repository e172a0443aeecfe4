"""What a model card can know of a checkpoint: its network, its training, its data and their rights.

Everything is read from the files beside the weights: `config.json`, `vocab.json`, the weights' headers,
`training_record.json`, and from what only a person can state, in the folder `card`:

    card/training_data.json    source of the record → {"name", "rights", "dataset"}
    card/statements.md         Markdown under headings of the card, put into those sections
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open

from modeling_rcmstr.configuration_text_recognition import CNN_SIZES
from training.card_pictures import CARD_FOLDER

RECORD_FILE = "training_record.json"
DATA_FILE = "training_data.json"
STATEMENTS_FILE = "statements.md"
NOT_STATED = "not stated"
ASCII_95 = set(string.digits + string.ascii_letters + string.punctuation + " ")


@dataclass(frozen=True)
class TrainingSource:
    """Words that a checkpoint was trained on.

    Args:
        source: as the run was given it.
        name: what they are, for people.
        rights: who made them and under which licence.
        dataset: identifier for the metadata, or None.
        words: that were read from it, repetitions counted; None where the record does not say.
        share: of all words that were read; None likewise.
        held_out: words that followed the training instead.
    """

    source: str
    name: str
    rights: str
    dataset: str | None
    words: int | None
    share: float | None
    held_out: int


def read_json(path: Path) -> Any:
    """The content of a JSON file; None when there is none.

    Raises:
        ValueError: for a file that is not valid JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def count_weights(folder: Path) -> int:
    """Number of weights in a folder's safetensors files, batch norm statistics included."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def describe_encoder(config: Mapping[str, Any]) -> str:
    """The encoder in a few words."""
    if config["encoder_type"] == "vit":
        return (
            f"a vision transformer of {config['num_hidden_layers']} layers, {config['hidden_size']} wide, on "
            f"patches of {config['patch_size']}x{config['patch_size']} pixels"
        )
    kind = config.get("cnn_type", "trba")
    names = {
        "trba": "the residual network of TRBA ([arXiv:1904.01906](https://arxiv.org/abs/1904.01906))",
        "resnet45": "the ResNet45 of ABINet ([arXiv:2103.06495](https://arxiv.org/abs/2103.06495))",
    }
    sizes = config["hidden_sizes"]
    narrow = " at a narrow width" if sizes[-1] < CNN_SIZES[kind]["hidden_sizes"][-1] else ""
    return f"{names[kind]}{narrow} ({', '.join(map(str, sizes))} channels)"


def describe_recogniser(config: Mapping[str, Any], characters: set[str]) -> str:
    """Class, encoder, head and characters in one sentence."""
    layers = config["head_bilstm_layers"]
    lstm = f"{layers} bidirectional LSTM layer{'s' if layers > 1 else ''} and " if layers else ""
    head = {"ctc": "CTC", "attention": "an attention decoder"}[config["decoder_type"]]
    return (
        f"an `{config['architectures'][0]}`: {describe_encoder(config)}, with {lstm}{head} over "
        f"{describe_characters(characters)}"
    )


def describe_characters(characters: set[str]) -> str:
    """A charset in a few words, spelt out where it has no name."""
    if characters == ASCII_95:
        return "the 95 printable ASCII characters"
    if characters == ASCII_95 - {" "}:
        return "the 94 printable ASCII characters without the space"
    spelt = "".join(sorted(characters - ASCII_95))
    beyond = f", among them {spelt}" if 0 < len(spelt) <= 60 else ""
    return f"{len(characters)} characters{beyond}"


def charset_of_folder(folder: Path) -> set[str]:
    """The characters of a recogniser's vocabulary, without its special tokens.

    Raises:
        ValueError: when the folder has no vocabulary.
    """
    vocabulary = read_json(folder / "vocab.json")
    if vocabulary is None:
        raise ValueError(f"{folder} holds no vocab.json; save the processor beside the weights.")
    return {token for token in vocabulary if len(token) == 1}


def describe_start(record: Mapping[str, Any]) -> str:
    """What a recogniser's training began from, as sentences."""
    settings, machine = record["settings"], record["machine"]
    place = f"on {machine['gpu']}" if machine.get("gpu") else "on the CPU"
    start = str(settings["model"])
    if start.endswith(".json"):
        return (
            f"It was trained from scratch, with labels, {place}. No self-supervised pretraining went into it."
        )
    frozen = " whose encoder stayed as it was" if settings.get("freeze_encoder") else ""
    return f"It was trained with labels, {place}, from the checkpoint `{Path(start).name}`{frozen}."


def read_sources(folder: Path, record: Mapping[str, Any]) -> list[TrainingSource]:
    """The sources of a record, with what `card/training_data.json` states of them.

    Raises:
        ValueError: for statements about sources that the record does not have, or incomplete ones.
    """
    path = folder / CARD_FOLDER / DATA_FILE
    stated = read_json(path) or {}
    sources = list(record["settings"]["train_sources"])
    if unknown := sorted(set(stated) - set(sources)):
        raise ValueError(f"{path} speaks of {unknown}; the training record's sources are {sources}.")
    for source, statement in stated.items():
        if not statement.get("name") or not statement.get("rights"):
            raise ValueError(f"{path}: {source!r} needs `name` and `rights`.")
    counts = record.get("counts") or record.get("data", {}).get("counts", {})
    words = {source: counts.get(f"read {source}") for source in sources}
    total = sum(words.values()) if all(words.values()) else None
    held_out = {one["source"]: one.get("held_out") or 0 for one in record.get("data", {}).get("sources", [])}
    return [
        TrainingSource(
            source=source,
            name=stated.get(source, {}).get("name", f"`{public_name(source)}`"),
            rights=stated.get(source, {}).get("rights", NOT_STATED),
            dataset=stated.get(source, {}).get("dataset") or _hub_dataset(source),
            words=words[source],
            share=words[source] / total if total else None,
            held_out=held_out.get(source, 0),
        )
        for source in sources
    ]


def public_name(source: str) -> str:
    """A source without the folders of its machine: `folder:/home/me/words` → `folder:words`."""
    kind, _, place = source.split("?")[0].partition(":")
    if _hub_dataset(source):
        return f"{kind}:{place}"
    return f"{kind}:{Path(place).name}" if place else Path(kind).name


def read_statements(folder: Path) -> dict[str, str]:
    """What a person states in `card/statements.md`, by heading; empty without the file.

    Raises:
        ValueError: for text before the first heading, or a heading that stands twice.
    """
    path = folder / CARD_FOLDER / STATEMENTS_FILE
    return split_sections(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


def split_sections(text: str, where: str) -> dict[str, str]:
    """Heading of the second level → the text below it.

    Raises:
        ValueError: for text before the first heading, or a heading that stands twice.
    """
    before, *rest = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    headings = [heading.strip() for heading in rest[::2]]
    if before.strip() or len(set(headings)) != len(headings):
        raise ValueError(f"{where} must consist of sections under headings `## …`, each once.")
    return {heading: body.strip() for heading, body in zip(headings, rest[1::2], strict=True)}


def _hub_dataset(source: str) -> str | None:
    """`datasets:org/name` and `stream:org/name` name a data set of the Hub unless they name a file."""
    kind, _, place = source.split("?")[0].partition(":")
    if kind not in {"datasets", "stream"} or place.count("/") != 1 or Path(place).exists():
        return None
    try:
        validate_repo_id(place)
    except HFValidationError:
        return None
    return place
