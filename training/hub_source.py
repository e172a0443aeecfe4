"""What can be published: the bundled recogniser, a run's folder, or any folder of `save_pretrained`.

A source is read whole and judged before a file is written: its class is one of this package, every weight is
there and finite, tokenizer and head fit, and measurements beside it are of these very weights. Writing the
published folder is in `hub_folder`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import modeling_rcmstr
from modeling_rcmstr import TextRecognitionImageProcessor, TextRecognitionProcessor, default_checkpoint
from training.benchmark_measurement import checkpoint_hash

# What a checkpoint is, by the end of its class's name.
KINDS = {
    "ForTextRecognition": "recogniser",
    "ForConditionalGeneration": "recogniser",
    "ForPreTraining": "pretraining",
    "Model": "encoder",
}
# Records that travel with the weights, and where they say which weights they are of.
RECORDS: dict[str, tuple[str, ...] | None] = {
    "results.json": ("checkpoint", "sha256"),
    "speed.json": ("checkpoint_sha256",),
    "training_record.json": None,
    "card/readings.json": ("checkpoint_sha256",),
}
# What a card is made of besides: statements, sources and pictures.
CARD_FOLDER = "card"
CARD_SUFFIXES = (".jpeg", ".jpg", ".json", ".md", ".png")
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class HubSource:
    """A checkpoint that may be published.

    Args:
        folder: where it is.
        kind: "recogniser", "pretraining" or "encoder".
        family: "RCMSTR" or "PerSec".
        model: loaded, in evaluation mode.
        processor: image processor and tokenizer of a recogniser; None for the other kinds.
        image_processor: how pictures become `pixel_values`.
        tensors: the weights as they are stored, in their stored precision.
        weights: SHA-256 of the weight files, as results name it.
    """

    folder: Path
    kind: str
    family: str
    model: Any
    processor: Any
    image_processor: Any
    tensors: dict[str, Tensor]
    weights: str

    @property
    def records(self) -> list[Path]:
        """Measurements and training record beside the weights, and what their card is made of."""
        found = {self.folder / name for name in RECORDS if (self.folder / name).is_file()}
        parts = (self.folder / CARD_FOLDER).glob("*")
        return sorted(found | {path for path in parts if path.suffix.lower() in CARD_SUFFIXES})

    @property
    def model_classes(self) -> dict[str, Any]:
        """The class behind each Auto class through which the checkpoint can be loaded.

        An encoder is the start of a recogniser too, whose head is then new.
        """
        is_ctc = self.model.config.decoder_type == "ctc"
        end = "ForTextRecognition" if is_ctc else "ForConditionalGeneration"
        classes = {
            "AutoModel": getattr(modeling_rcmstr, f"{self.family}Model"),
            "AutoModelForTextRecognition": getattr(modeling_rcmstr, self.family + end),
        }
        if is_ctc:
            classes["AutoModelForCTC"] = classes["AutoModelForTextRecognition"]
        if self.kind == "pretraining":
            classes["AutoModelForPreTraining"] = type(self.model)
        return classes


def open_checkpoint(source: str | Path) -> HubSource:
    """Read a source and judge whether it may be published.

    Args:
        source: "default" for the bundled recogniser, a run's folder (its `final/` is taken), or a folder of
            `save_pretrained`.

    Raises:
        ValueError: naming what is missing or wrong, and the remedy.
    """
    folder = find_checkpoint_folder(source)
    model_class, kind, family = _class_of(folder)
    tensors = read_weights(folder)
    spoilt = [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if spoilt:
        raise ValueError(
            f"{len(spoilt)} weights of {folder} hold not-a-number or infinity ({', '.join(spoilt[:3])}); "
            "publish an earlier checkpoint of the run, or train again with a smaller learning rate."
        )
    try:
        model = model_class.from_pretrained(folder)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit its config.json: {error}") from error
    foreign = sorted(set(tensors) - set(model.state_dict()))
    if foreign:
        raise ValueError(
            f"{folder} holds {len(foreign)} weights that {model_class.__name__} does not have "
            f"({', '.join(foreign[:3])}); save the model anew with `save_pretrained`."
        )
    processor = _processor_of(folder, model.config) if kind == "recogniser" else None
    weights = checkpoint_hash(folder)
    _refuse_records_of_other_weights(folder, weights)
    return HubSource(
        folder=folder,
        kind=kind,
        family=family,
        model=model,
        processor=processor,
        image_processor=_image_processor_of(folder, model.config, processor),
        tensors=tensors,
        weights=weights,
    )


def find_checkpoint_folder(source: str | Path) -> Path:
    """Find the folder with config.json that a source means.

    Raises:
        ValueError: when there is none; for a run that has not ended, with what could be named instead.
    """
    if str(source) == "default":
        return default_checkpoint()
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(
            f"{str(source)!r} is no folder; give a run's folder, a folder of `save_pretrained`, or "
            "`default` for the bundled recogniser."
        )
    for place in (folder, folder / "final"):
        if (place / "config.json").is_file():
            return place
    unfinished = [path.parent for path in sorted(folder.glob("checkpoints/checkpoint-*/config.json"))]
    unfinished += [folder / "best"] if (folder / "best" / "config.json").is_file() else []
    if unfinished:
        named = ", ".join(map(str, unfinished))
        raise ValueError(
            f"the run {folder} has no `final/` yet; let it end (`resume=true`), or name what is to be "
            f"published: {named}."
        )
    raise ValueError(
        f"{folder} holds no checkpoint: neither it nor its `final/` has a config.json; give the folder that "
        "a run or `save_pretrained` wrote."
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder as they are stored, from one file or from shards.

    Raises:
        ValueError: when there are none in safetensors.
    """
    index = folder / WEIGHTS_INDEX
    if (folder / WEIGHTS_FILE).is_file():
        files = [folder / WEIGHTS_FILE]
    elif index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(named))]
    else:
        files = []
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise ValueError(
            f"{folder} holds no {', '.join(missing) or WEIGHTS_FILE}; weights are published in safetensors "
            "only, never as pickles: load the model and `save_pretrained` it."
        )
    return {name: tensor for path in files for name, tensor in load_file(str(path)).items()}


def _class_of(folder: Path) -> tuple[Any, str, str]:
    """Look up the class that config.json names, its kind and its family."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    names = [name for name in modeling_rcmstr.__all__ if name.endswith(tuple(KINDS))]
    name = (config.get("architectures") or [None])[0]
    if name not in names:
        raise ValueError(
            f"{folder / 'config.json'} names the class {name!r} under `architectures`; publishable are "
            f"{', '.join(names)}: save the model with `save_pretrained`."
        )
    end = next(end for end in KINDS if name.endswith(end))
    return getattr(modeling_rcmstr, name), KINDS[end], name.removesuffix(end)


def _processor_of(folder: Path, config: Any) -> Any:
    """Load a recogniser's processor; its tokenizer must be the head's."""
    if not (folder / "vocab.json").is_file() or not _has_image_processor(folder):
        raise ValueError(
            f"{folder} is a recogniser's and lacks its processor (vocab.json, processor_config.json); save "
            "the processor it was trained with into the same folder."
        )
    processor = TextRecognitionProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    is_attention = config.decoder_type == "attention"
    if tokenizer.vocab_size != config.vocab_size or tokenizer.for_attention != is_attention:
        raise ValueError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} ids for "
            f"{'attention' if tokenizer.for_attention else 'ctc'}, the model {config.vocab_size} for "
            f"{config.decoder_type}; save the processor that the model was trained with."
        )
    return processor


def _image_processor_of(folder: Path, config: Any, processor: Any) -> Any:
    """The image processor; one of the nominal size for an encoder that was saved without."""
    if processor is not None:
        return processor.image_processor
    if _has_image_processor(folder):
        return TextRecognitionImageProcessor.from_pretrained(folder)
    height, width = config.image_size
    return TextRecognitionImageProcessor(size={"height": height, "width": width})


def _has_image_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PROCESSOR_FILES)


def _refuse_records_of_other_weights(folder: Path, weights: str) -> None:
    for name, keys in RECORDS.items():
        if keys is None or not (folder / name).is_file():
            continue
        found: Any = json.loads((folder / name).read_text(encoding="utf-8"))
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None and found != weights:
            raise ValueError(
                f"{folder / name} was measured on other weights ({str(found)[:16]}, these are "
                f"{weights[:16]}); measure again, or remove the file."
            )
