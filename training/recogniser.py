"""A recogniser to train: from a `model.json` or a checkpoint folder, with its processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForTextRecognition, AutoProcessor

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from training.arguments import RunArguments


def build_recogniser(run: RunArguments, added: str | None = None) -> tuple[Any, Any]:
    """Make the model and the processor of a run.

    A `model.json` gives a new model, its vocabulary from `charset`. A checkpoint folder (a recogniser's or a
    pretrained encoder's) gives its weights; its processor is kept where it has one, unless `charset` or
    `processor` says otherwise, and a head whose vocabulary changes starts anew.

    Args:
        run: its settings.
        added: characters that a checkpoint's recogniser gets besides its own, which it keeps; those that it
            has are passed over.

    Raises:
        ValueError: for a missing file, an unknown model type or field, a checkpoint that does not fit, or
            characters to add to a head that is new.
    """
    place = Path(run.model)
    if place.is_dir():
        model, processor = _from_checkpoint(place, run)
        if added:
            extend_recogniser(model, processor, run, added)
        return model, processor
    if not place.is_file():
        raise ValueError(
            f"`model` must be a model.json or a checkpoint folder; {run.model!r} does not exist."
        )
    if added:
        raise ValueError(
            "`charset.add` extends the recogniser of a checkpoint folder, `model` names a new one; give all "
            "its characters by `charset`."
        )
    config = read_model_json(place, run.model_settings or {})
    processor = make_processor(config, run.charset or "ascii-94", run.processor)
    adopt_vocabulary(config, processor.tokenizer)
    return recogniser_class(config)(config), processor


def extend_recogniser(model: Any, processor: Any, run: RunArguments, added: str) -> None:
    """Give model and processor of a checkpoint further characters, in place.

    Raises:
        ValueError: for a head that starts anew, or characters that the tokenizer's normalisation removes.
    """
    if run.charset is not None or not model.has_head_of_checkpoint:
        raise ValueError(
            "`charset.add` keeps the checkpoint's head and its characters, and "
            + ("`charset` replaces them" if run.charset is not None else f"{run.model!r} holds no such head")
            + "; give one of the two: all characters by `charset`, or a recogniser's folder as `model`."
        )
    previous = processor.tokenizer
    further = "".join(character for character in added if character not in previous.charset)
    if further:
        try:
            processor.tokenizer = previous.extended(further)
        except ValueError as error:
            raise ValueError(f"`charset.add`: {error}") from error
        model.resize_charset(processor.tokenizer, previous)


def read_model_json(path: Path, changes: dict[str, Any]) -> Any:
    """Read a configuration; every key must be a field of it.

    Raises:
        ValueError: for a missing or unknown `model_type`, or unknown fields, all listed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    content.update(changes)
    model_type = content.pop("model_type", None)
    try:
        config_class = type(AutoConfig.for_model(model_type))
    except ValueError as error:
        raise ValueError(
            f"{path}: unknown `model_type` {model_type!r}; known here: rcmstr, persec."
        ) from error
    # The vocabulary is the tokenizer's; a placeholder large enough for every check comes first.
    content.setdefault("vocab_size", 1000)
    return explain_strictness(lambda: config_class(**content), str(path))


def changed_config(place: Path, changes: dict[str, Any]) -> Any:
    """Read the configuration of a checkpoint with some fields changed.

    Raises:
        ValueError: for names that are no fields of it, and for values that it refuses.
    """
    config = AutoConfig.from_pretrained(place)
    known = {field.name for field in fields(type(config))}
    if unknown := sorted(set(changes) - known):
        raise ValueError(
            f"`model_settings`: {type(config).__name__} has no field {unknown}; it has {sorted(known)}."
        )
    return explain_strictness(lambda: AutoConfig.from_pretrained(place, **changes), str(place))


def explain_strictness(make: Callable[[], Any], where: str) -> Any:
    """Make a configuration; a value that it refuses becomes a ValueError with its rule."""
    try:
        return make()
    except StrictDataclassError as error:
        raise ValueError(f"{where}: {error.__cause__ or error}") from error


def make_processor(config: Any, charset: str, settings: dict[str, Any] | None) -> Any:
    """Make a processor for a configuration: its nominal size, the given charset, and image settings.

    Raises:
        ValueError: for image settings that do not exist or contradict each other.
    """
    height, width = config.image_size
    image_settings = {"size": {"height": height, "width": width}, **(settings or {})}
    known = set(TextRecognitionImageProcessor.valid_kwargs.__annotations__)
    if unknown := sorted(set(image_settings) - known):
        raise ValueError(
            f"`processor`: the image processor has no settings {unknown}; it has {sorted(known)}."
        )
    tokenizer = CharacterTokenizer(charset=charset, for_attention=config.is_encoder_decoder)
    return TextRecognitionProcessor(
        image_processor=TextRecognitionImageProcessor(**image_settings), tokenizer=tokenizer
    )


def adopt_vocabulary(config: Any, tokenizer: Any) -> None:
    """Give a configuration the tokenizer's vocabulary size and special ids."""
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    if config.is_encoder_decoder:
        config.bos_token_id = config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id


def recogniser_class(config: Any) -> Any:
    """The class of a configuration's family that has its kind of head."""
    classes: Any = AutoModelForTextRecognition._model_mapping[type(config)]
    return next(c for c in classes if c.can_generate() == config.is_encoder_decoder)


def frames_of(config: Any) -> Callable[[int], int]:
    """Width in pixels → frames of a CTC head (`ARCHITECTURE.md`: stride 4, and one more for TRBA's CNN)."""
    extra = 1 if config.has_centered_frames else 0
    patch = config.patch_size

    def frames(width: int) -> int:
        return width // patch + extra

    return frames


def _from_checkpoint(place: Path, run: RunArguments) -> tuple[Any, Any]:
    if not (place / "config.json").is_file():
        raise ValueError(f"`model`: the folder {str(place)!r} holds no config.json and is no checkpoint.")
    config = changed_config(place, run.model_settings or {})
    has_processor = any(
        (place / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")
    )
    kept = AutoProcessor.from_pretrained(place) if has_processor else None
    attention_fits = kept is not None and kept.tokenizer.for_attention == config.is_encoder_decoder
    if kept is not None and run.charset is None and run.processor is None and attention_fits:
        processor = kept
    else:
        charset = run.charset or (kept.tokenizer.charset if kept is not None else "ascii-94")
        processor = make_processor(config, charset, run.processor)
        if kept is not None and run.processor is None:
            processor.image_processor = kept.image_processor
    adopt_vocabulary(config, processor.tokenizer)
    model, info = recogniser_class(config).from_pretrained(
        place, config=config, ignore_mismatched_sizes=True, dtype="float32", output_loading_info=True
    )
    refuse_new_encoder(place, [key for key, *_ in info["mismatched_keys"]])
    return model, processor


def refuse_new_encoder(place: Path, mismatched: Sequence[str]) -> None:
    """Refuse a checkpoint whose encoder has other sizes than the configuration: its weights would be random.

    Raises:
        ValueError: naming some of the weights.
    """
    encoder = sorted(key for key in mismatched if key.startswith("model.encoder."))
    if encoder:
        raise ValueError(
            f"`model`: {len(encoder)} weights of the encoder in {str(place)!r} have other sizes than "
            f"`model_settings` asks for ({', '.join(encoder[:3])}); leave the encoder's sizes as "
            "they are, or start from a model.json."
        )
