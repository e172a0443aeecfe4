"""A model to pretrain: from a `model.json` or from a folder with weights, with its image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import AutoConfig

from modeling_rcmstr import TextRecognitionImageProcessor
from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from modeling_rcmstr.pretraining_rcmstr import RCMSTRForPreTraining
from training.pretraining_arguments import PretrainingRunArguments
from training.recogniser import read_model_json

# A pretrained model has no head; its vocabulary is what the configuration class says, until a recogniser is
# made.
NO_VOCABULARY = 95
PROCESSOR_FILE = "preprocessor_config.json"
PRETRAINING_CLASSES: dict[str, Any] = {"rcmstr": RCMSTRForPreTraining, "persec": PerSecForPreTraining}


def build_pretraining_model(
    run: PretrainingRunArguments, processor: dict[str, Any] | None
) -> tuple[Any, Any]:
    """Make the model and the image processor of a run.

    A `model.json` gives a new model. A folder gives its weights, whatever was trained there: the parts of
    pretraining that it lacks start anew.

    Args:
        run: names the model and what to change in its configuration.
        processor: image processor settings; of a folder, only the ones that change.

    Returns:
        The model in training mode, in float32, and its image processor.

    Raises:
        ValueError: for a missing file, an unknown preset or field, or a model that cannot be pretrained.
    """
    place = Path(run.model)
    if place.is_dir():
        if not (place / "config.json").is_file():
            raise ValueError(f"`model`: the folder {str(place)!r} holds no config.json and is no checkpoint.")
        config = AutoConfig.from_pretrained(place)
        config = type(config)(**(config.to_dict() | _changes(type(config), run)))
        model = pretraining_class(config).from_pretrained(place, config=config, dtype="float32")
    elif place.is_file():
        config = read_model_json(place, _vocabulary_of(place))
        config = type(config)(**(config.to_dict() | _changes(type(config), run)))
        model = pretraining_class(config)(config)
    else:
        raise ValueError(
            f"`model` must be a model.json or a folder with weights; {run.model!r} does not exist."
        )
    return model.train(), _image_processor(config, place, processor or {})


def pretraining_class(config: Any) -> Any:
    """The class that pretrains a configuration's family.

    Raises:
        ValueError: when there is none.
    """
    if config.model_type not in PRETRAINING_CLASSES:
        known = ", ".join(PRETRAINING_CLASSES)
        raise ValueError(f"model type {config.model_type!r} cannot be pretrained; known: {known}.")
    return PRETRAINING_CLASSES[config.model_type]


def model_family(model: str) -> str:
    """The model type that a `model.json` or a folder with weights names; "" when it names none."""
    place = Path(model)
    place = place / "config.json" if place.is_dir() else place
    try:
        return str(json.loads(place.read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, json.JSONDecodeError):
        return ""  # building the model says what is wrong


def load_weights(model: Any, folder: Path) -> None:
    """Load the very weights and buffers that a checkpoint of this run holds."""
    model.load_state_dict(load_file(str(folder / "model.safetensors")), strict=True)


def _changes(config_class: Any, run: PretrainingRunArguments) -> dict[str, Any]:
    """Fields that the preset and `model_settings` set."""
    changes: dict[str, Any] = {}
    if run.preset is not None:
        presets = config_class.presets() if hasattr(config_class, "presets") else {}
        if run.preset not in presets:
            known = ", ".join(presets) or "none; set `model_settings` instead"
            raise ValueError(f"unknown `preset` {run.preset!r} of {config_class.model_type}; known: {known}.")
        changes |= presets[run.preset]
    settings = run.model_settings or {}
    unknown = sorted(name for name in settings if not hasattr(config_class, name))
    if unknown:
        raise ValueError(f"`model_settings`: {config_class.model_type} has no fields {unknown}.")
    return changes | settings


def _vocabulary_of(place: Path) -> dict[str, Any]:
    """The vocabulary size that a model.json names, or the one of no vocabulary."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from error
    return {} if "vocab_size" in content else {"vocab_size": NO_VOCABULARY}


def _image_processor(config: Any, place: Path, settings: dict[str, Any]) -> Any:
    if place.is_dir() and (place / PROCESSOR_FILE).is_file():
        return TextRecognitionImageProcessor.from_pretrained(place, **settings)
    height, width = config.image_size
    return TextRecognitionImageProcessor(**{"size": {"height": height, "width": width}, **settings})
