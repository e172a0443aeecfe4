"""A checkpoint's model card: the README.md of its page on the Hub, from the files beside its weights.

`render_card` serves recognisers and pretrained encoders. Prose lies in `recogniser_card.md` and
`encoder_card.md` (Jinja), facts come from `card_facts`, tables from `card_tables` and `fill_results`,
metadata from `card_metadata`, pictures from `card_pictures`. Numbers are those of `results.json`,
`speed.json` and `training_record.json`; what those files lack, the card says it lacks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub.utils import validate_repo_id

from modeling_rcmstr import default_checkpoint
from training.benchmark_measurement import checkpoint_hash
from training.card_citation import FAMILIES, PATENTS, bibtex
from training.card_facts import (
    RECORD_FILE,
    STATEMENTS_FILE,
    TrainingSource,
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
from training.card_metadata import check_card, encoder_metadata, recogniser_metadata
from training.card_pictures import (
    CARD_FOLDER,
    READINGS_FILE,
    SHEETS,
    CardReading,
    describe_pictures,
    parse_readings,
)
from training.card_tables import (
    calibration_table,
    losses_table,
    probes_table,
    robustness_table,
    sources_table,
    unbroken_ranges,
)
from training.fill_results import describe_machine, results_table, speed_table

ROOT = Path(__file__).resolve().parent.parent
FAMILY_CARDS = ROOT / "hub_cards"
LICENCE = "apache-2.0"
LANGUAGES = ("en",)
# Sections of hub_cards/FAMILY.md that are true of every encoder of the family.
FAMILY_SECTIONS = ("What it learns from", "Where the paper is silent", "Patents")
NUMBER_FILES = ("results.json", "speed.json", RECORD_FILE, f"{CARD_FOLDER}/{READINGS_FILE}")
DIGEST_DIGITS = 16
PICTURE_TITLES = {True: "**Read rightly**", False: "**Read wrongly**"}


def render_card(
    folder: Path,
    repo_id: str | None,
    *,
    pictures: str = CARD_FOLDER,
    licence: str = LICENCE,
    languages: Sequence[str] = LANGUAGES,
) -> str:
    """Write the card of a checkpoint.

    Args:
        folder: with `config.json` and the weights, and where there are any `results.json`, `speed.json`,
            `training_record.json` and the folder `card` (see `card_facts` and `card_pictures`).
        repo_id: where it lies on the Hub, `owner/name`; None for a folder on disk.
        pictures: path of the folder `card` from where the card will lie.
        licence: of the weights, in the Hub's words.
        languages: ISO 639 codes of the words that it reads.

    Returns:
        The text of README.md, its metadata checked.

    Raises:
        ValueError: when the folder is no checkpoint, files beside the weights belong to other weights, or
            the metadata break a rule of the Hub.
    """
    config = read_json(folder / "config.json")
    if config is None or config.get("model_type") not in FAMILIES:
        raise ValueError(
            f"{folder} is no checkpoint of {' or '.join(FAMILIES)}: its config.json is missing or of another "
            "model type."
        )
    if repo_id is not None:
        validate_repo_id(repo_id)
    record = read_json(folder / RECORD_FILE)
    card = _Card(
        folder=folder,
        repo_id=repo_id,
        name=repo_id.split("/")[-1] if repo_id else _folder_name(folder),
        config=config,
        record=record,
        sources=read_sources(folder, record) if record else [],
        licence=licence,
        languages=languages,
    )
    pretraining = config["architectures"][0].endswith("ForPreTraining")
    own = _encoder_context(card) if pretraining else _recogniser_context(card, pictures)
    statements, used = read_statements(folder), set()

    def stated(heading: str, before: str = "\n\n", after: str = "") -> str:
        used.add(heading)
        return f"{before}{statements[heading]}{after}" if heading in statements else ""

    text = _fill_template(
        "encoder_card.md" if pretraining else "recogniser_card.md",
        {
            "title": card.name,
            "repo_id": repo_id,
            "stated": stated,
            "limits": stated("Limits", before=""),
            "sources": sources_table(card.sources) if card.sources else "",
            "files": describe_files(folder),
            "weights": describe_number(count_weights(folder)),
            "licence_sentence": _licence_sentence(licence),
            "patents": PATENTS,
            "bibtex": bibtex(config["model_type"]),
            **own,
        },
    )
    if unknown := sorted(set(statements) - used):
        raise ValueError(
            f"{folder / CARD_FOLDER / STATEMENTS_FILE} has sections that the card lacks: {unknown}; "
            f"it takes {sorted(used)}."
        )
    check_card(text)
    return text


@dataclass(frozen=True)
class _Card:
    """What both kinds of cards are made from; see `render_card`."""

    folder: Path
    repo_id: str | None
    name: str
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    sources: Sequence[TrainingSource]
    licence: str
    languages: Sequence[str]

    @property
    def datasets(self) -> list[str]:
        """Identifiers for the metadata, each once."""
        return list(dict.fromkeys(source.dataset for source in self.sources if source.dataset))


def _recogniser_context(card: _Card, pictures: str) -> dict[str, Any]:
    folder, sha256 = card.folder, checkpoint_hash(card.folder)
    results, speed = read_json(folder / "results.json"), read_json(folder / "speed.json")
    if results:
        _belongs(results["checkpoint"]["sha256"], sha256, folder / "results.json", "run_benchmark")
    if speed:
        _belongs(speed["checkpoint_sha256"], sha256, folder / "speed.json", "run_speed")
    metadata = recogniser_metadata(
        card.name, card.config, results, card.datasets, card.licence, card.languages
    )
    results, characters, readings = results or {}, charset_of_folder(folder), _readings(folder, sha256)
    robustness, calibration = results.get("robustness"), results.get("calibration")
    bundled = checkpoint_hash(default_checkpoint()) == sha256
    family, paper, _ = FAMILIES[card.config["model_type"]]
    context = {
        "metadata": metadata.to_yaml(),
        "bundled": bundled,
        "network": describe_recogniser(card.config, characters),
        "image_sentence": _image_sentence(card),
        "megabytes": f"{sum(file.stat().st_size for file in folder.glob('*.safetensors')) / 1e6:.1f}",
        "start": describe_start(card.record) if card.record else "",
        "results": unbroken_ranges(results_table(results)) if results else "",
        "speed": unbroken_ranges(speed_table(speed)) if speed else "",
        "calibration": calibration_table(calibration) if calibration else "",
        "bins": calibration["bins"] if calibration else 0,
        "robustness": robustness_table(robustness) if robustness else "",
        "robustness_words": robustness["words"] if robustness else 0,
        "pictures": _pictures(readings, pictures),
        "right": sum(reading.correct for reading in readings),
        "words": len(readings),
        "training": _training_sentences(card.record) if card.record else "",
        "characters": describe_characters(characters),
        "origin": f"The family and its architecture follow {family} ({paper}).",
    }
    if bundled and card.repo_id is None:
        context["title"] = "The recogniser that comes with modeling_rcmstr"
    return context


def _encoder_context(card: _Card) -> dict[str, Any]:
    family, paper, _ = FAMILIES[card.config["model_type"]]
    record = card.record or {"settings": {}, "probes": [], "last": None}
    settings = record["settings"]
    return {
        "metadata": encoder_metadata(card.config, card.datasets, card.licence, card.languages).to_yaml(),
        "family": card.config["model_type"],
        "family_name": family,
        "paper": paper,
        "network": describe_encoder(card.config),
        "place": card.repo_id or "CHECKPOINT",
        "trust": ", trust_remote_code=True" if card.repo_id else "",
        "training": _pretraining_sentences(card.record) if card.record else "",
        "losses": losses_table(record["last"]) if record["last"] else "",
        "probes": probes_table(record["probes"]),
        "probe_head": {"ctc": "CTC", "attention": "attention"}.get(settings.get("probe_head", "")),
        "probe_words": settings.get("probe_eval_words"),
        "probe_train_words": settings.get("probe_train_words"),
        "probe_source": public_name(settings.get("probe_source") or ""),
        "probe_updates": settings.get("probe_updates"),
        "family_sections": family_sections(card.config["model_type"]),
    }


def family_sections(model_type: str) -> dict[str, str]:
    """What hub_cards says of every encoder of a family, links into the repository as plain text."""
    path = FAMILY_CARDS / f"{model_type}.md"
    body = path.read_text(encoding="utf-8").split("\n## ", 1)[1]
    sections = split_sections(f"## {body}", str(path))
    return {
        heading: re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1 of the repository", sections[heading])
        for heading in FAMILY_SECTIONS
        if heading in sections
    }


def describe_files(folder: Path) -> str:
    """The files that a card's numbers are from, with the start of their SHA-256: a changed digit shows."""
    paths = [folder / name for name in NUMBER_FILES]
    found = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in paths if path.is_file()]
    return ", ".join(found) or "nothing: no file with numbers lies beside the weights"


def file_digest(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_DIGITS]


def describe_number(number: int) -> str:
    """A large number for people: 2,081,410 → "2.1 million"."""
    return f"{number / 1e6:.1f} million" if number >= 100_000 else f"{number:,}"


def _fill_template(template: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string((ROOT / "training" / template).read_text(encoding="utf-8")).render(context)
    return re.sub(r"\n{3,}", "\n\n", text)


def _belongs(stated: str, sha256: str, path: Path, program: str) -> None:
    if stated != sha256:
        raise ValueError(
            f"{path} was measured with other weights ({stated[:16]}) than lie beside it ({sha256[:16]}); "
            f"measure these with training.{program}, or write the card in the folder that was measured."
        )


def _folder_name(folder: Path) -> str:
    """A run's `final` is called after the run."""
    place = folder.resolve()
    return place.parent.name if place.name == "final" else place.name


def _image_sentence(card: _Card) -> str:
    settings = (read_json(card.folder / "processor_config.json") or {}).get("image_processor", {})
    size = settings.get("size") or dict(zip(("height", "width"), card.config["image_size"], strict=True))
    if settings.get("keep_aspect_ratio"):
        return f"It keeps a word's aspect ratio at {size['height']} pixels of height."
    return f"It stretches every word to {size['height']}x{size['width']} pixels."


def _training_sentences(record: Mapping[str, Any]) -> str:
    return (
        f"{record['steps']:,} steps, {record['images_seen']:,} words, {record['minutes']:.0f} minutes; "
        f"{describe_machine(record['machine'])}. `{RECORD_FILE}` holds the settings, counts, curve and "
        "kind of machine."
    )


def _pretraining_sentences(record: Mapping[str, Any]) -> str:
    processes, words = record["processes"], record["words_per_update"]
    preset = record["settings"].get("preset")
    return (
        f"{record['steps']:,} updates of {words:,} words, {record['images_seen']:,} words in all,"
        f" {record['minutes']:.1f} minutes on {processes} process{'es' if processes > 1 else ''}; "
        f"{describe_machine(record['machine'])}."
        + (f" Preset `{preset}`." if preset else "")
        + f" `{RECORD_FILE}` holds the settings, counts and kind of machine."
    )


def _readings(folder: Path, sha256: str) -> list[CardReading]:
    content = read_json(folder / CARD_FOLDER / READINGS_FILE)
    if content is None:
        return []
    if content["checkpoint_sha256"] != sha256:
        raise ValueError(
            f"{folder / CARD_FOLDER} shows what other weights ({content['checkpoint_sha256'][:16]}) read "
            f"than lie beside it ({sha256[:16]}); draw the pictures anew with "
            "`python -m training.write_cards CHECKPOINT --pictures`."
        )
    return parse_readings(content)


def _pictures(readings: Sequence[CardReading], place: str) -> list[dict[str, str]]:
    return [
        {"title": PICTURE_TITLES[correct], "text": _alternative(text), "path": f"{place}/{SHEETS[correct]}"}
        for correct, text in describe_pictures(readings).items()
        if text
    ]


def _alternative(text: str) -> str:
    """A text inside the brackets of a Markdown picture."""
    return re.sub(r"([\\\[\]*_`$<>])", r"\\\1", text)


def _licence_sentence(licence: str) -> str:
    return {
        "apache-2.0": "Apache-2.0, the code and the weights.",
        "other": "The weights are under a licence of their own, see the metadata; the code is Apache-2.0.",
    }.get(licence, f"The weights: {licence}; the code: Apache-2.0.")
