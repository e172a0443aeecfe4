"""Loads a folder through the Auto classes and writes down what it does; also a program for itself.

As a program it is a stranger to this repository: started with `python -I` by `hub_check`, it hides our
package, trusts the folder's own code, and imports nothing but the libraries. The same functions, called in a
process that has the package, say what the source does; the two must agree.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

TASK = "text-recognition"
# What publishing adds to a configuration, and what names a place or a version.
VOLATILE_FIELDS = ("_name_or_path", "auto_map", "custom_pipelines", "transformers_version")
TOKENIZER_OPTIONS = ("unknown_characters", "do_lower_case", "normalization", "for_attention")
BATCH_SIZE = 4  # words that the pipeline reads at once
DECODER_STEPS = 5


@dataclass
class Observation:
    """What a folder does.

    Args:
        tensors: numbers that must agree within the precision of float32.
        facts: what must be the same: texts, vocabulary, settings, names of classes.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def load_parts(folder: str, names: Sequence[str], trust: bool) -> dict[str, Any]:
    """Load a folder through each Auto class, and as "pipeline".

    Args:
        folder: of the checkpoint.
        names: Auto classes of transformers, and "pipeline".
        trust: run the folder's own code.
    """
    parts: dict[str, Any] = {}
    for name in names:
        options: dict[str, Any] = {"trust_remote_code": trust}
        if name == "pipeline":
            task: Any = TASK
            parts[name] = transformers.pipeline(
                task, model=folder, device="cpu", dtype=torch.float32, **options
            )
            continue
        if name.startswith("AutoModel"):
            options["dtype"] = torch.float32
        parts[name] = getattr(transformers, name).from_pretrained(folder, **options)
    return parts


@torch.inference_mode()
def observe(parts: Mapping[str, Any], pictures: Sequence[str]) -> Observation:
    """Run every part on pictures of words and on a fixed batch of noise.

    Args:
        parts: what `load_parts` gave; "AutoConfig" and "AutoImageProcessor" must be among them.
        pictures: image files.
    """
    seen, config = Observation(), parts["AutoConfig"]
    images = [Image.open(path).convert("RGB") for path in pictures]
    seen.facts["AutoConfig: fields"] = _plain(config.to_dict(), VOLATILE_FIELDS)
    for name, part in parts.items():
        seen.facts[f"{name}: class"] = type(part).__name__
        if name == "AutoImageProcessor":
            seen.facts[f"{name}: settings"] = _plain(part.to_dict(), VOLATILE_FIELDS)
            for key, value in part(images, return_tensors="pt").items():
                seen.tensors[f"{name}: {key}"] = value
        elif name == "AutoTokenizer":
            _observe_tokenizer(name, part, seen)
        elif name == "AutoProcessor":
            tokenizer = part.tokenizer
            seen.tensors[f"{name}: labels"] = part(text=[tokenizer.charset, tokenizer.charset[:3]])["labels"]
        elif name == "pipeline":
            answers = part(images, batch_size=BATCH_SIZE)
            seen.facts[f"{name}: texts"] = [answer["text"] for answer in answers]
            seen.tensors[f"{name}: scores"] = torch.tensor([answer["score"] for answer in answers])
        elif name.startswith("AutoModel"):
            part.eval()
            _observe_model(name, part, config, parts["AutoImageProcessor"].size, seen)
    if "AutoProcessor" in parts:
        _observe_reading(parts, images, seen)
    return seen


def _observe_tokenizer(name: str, tokenizer: Any, seen: Observation) -> None:
    ids = tokenizer(tokenizer.charset)["input_ids"]
    seen.facts[f"{name}: vocabulary"] = tokenizer.get_vocab()
    seen.facts[f"{name}: options"] = {option: getattr(tokenizer, option) for option in TOKENIZER_OPTIONS}
    seen.facts[f"{name}: ids"] = list(ids)
    seen.facts[f"{name}: text"] = tokenizer.decode(ids, skip_special_tokens=True)


def _observe_model(name: str, model: Any, config: Any, size: Mapping[str, int], seen: Observation) -> None:
    """Features of the encoder on noise; of a pretraining model every loss, of a recogniser its logits."""
    generator = torch.Generator().manual_seed(0)
    # Two groups of words that exchange pieces (RCMSTR).
    count = 2 * getattr(config, "images_per_group", 2)
    shape = (count, config.num_channels, size["height"], size["width"])
    batch = torch.randn(shape, generator=generator)
    seen.tensors[f"{name}: features"] = model.base_model(batch).last_hidden_state
    if name == "AutoModelForPreTraining":
        given: dict[str, Any] = {"generator": torch.Generator().manual_seed(1)}
        if "second_pixel_values" in inspect.signature(model.forward).parameters:
            given["second_pixel_values"] = batch + 0.1 * torch.randn(shape, generator=generator)
        for key, value in _flat(model(batch, **given)):
            seen.tensors[f"{name}: {key}"] = value
    elif hasattr(model, "head") and not model.untrained_weights:
        seen.tensors[f"{name}: logits of noise"] = model(batch, **_decoder_inputs(config, len(batch))).logits
        if model.can_generate():
            seen.facts[f"{name}: generation"] = _plain(
                model.generation_config.to_dict(), (*VOLATILE_FIELDS, "_from_model_config")
            )


def _observe_reading(parts: Mapping[str, Any], images: Sequence[Image.Image], seen: Observation) -> None:
    """Logits and texts of the pictures by processor and model, step by step."""
    processor, model = parts["AutoProcessor"], parts["AutoModelForTextRecognition"]
    inputs, name = processor(images=list(images)), "AutoModelForTextRecognition"
    seen.tensors[f"{name}: logits"] = model(
        **inputs, **_decoder_inputs(parts["AutoConfig"], len(images))
    ).logits
    if model.can_generate():
        outputs = model.generate(**inputs, return_dict_in_generate=True, output_scores=True)
    else:
        outputs = model(**inputs)
    words = processor.post_process_text_recognition(outputs, pixel_mask=inputs.get("pixel_mask"))
    seen.facts["AutoProcessor: texts"] = [word["text"] for word in words]


def _decoder_inputs(config: Any, count: int) -> dict[str, Tensor]:
    """What an attention decoder has read so far: the start and the last few of its vocabulary."""
    if config.decoder_type != "attention":
        return {}
    last = [max(config.vocab_size - 1 - step, 0) for step in range(DECODER_STEPS)]
    return {"decoder_input_ids": torch.tensor([[config.decoder_start_token_id, *last]] * count)}


def _flat(outputs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Every tensor of an output under its name, those of dictionaries too."""
    found = []
    for key, value in outputs.items():
        named = value.items() if isinstance(value, Mapping) else [("", value)]
        found += [(f"{key} {part}".strip(), tensor) for part, tensor in named if isinstance(tensor, Tensor)]
    return found


def _plain(fields: Mapping[str, Any], without: Sequence[str]) -> Any:
    """The fields as JSON holds them, so that a tuple equals a list."""
    kept = {key: value for key, value in fields.items() if key not in without}
    return json.loads(json.dumps(kept, default=str, sort_keys=True))


class _Absence:
    """Makes packages look as if they were not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Refuse the packages and leave all others to the finders that follow."""
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _hide(packages: Sequence[str]) -> None:
    """Hide packages from this process.

    Raises:
        RuntimeError: when one can be imported all the same.
    """
    sys.meta_path.insert(0, _Absence(packages))
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        raise RuntimeError(f"{package} is still importable; the check would prove nothing.")


def _refuse_installed_classes(parts: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        module = type(part).__module__
        if not module.startswith("transformers_modules."):
            raise RuntimeError(f"{name} gave {type(part).__name__} of {module}, not the folder's own class.")


def run_job(path: str) -> None:
    """Observe the folders that a job file lists, each by itself, and write what was seen beside it.

    Args:
        path: of a JSON file with "hidden" (packages), "threads", "pictures", and "folders", each with
            "folder", "parts" and "output": the stem of a .safetensors with the tensors and a .json with the
            facts, or with the "error" that the folder gave.
    """
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    torch.set_num_threads(job["threads"])
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    _hide(job["hidden"])
    for task in job["folders"]:
        seen = Observation()
        try:
            parts = load_parts(task["folder"], task["parts"], trust=True)
            _refuse_installed_classes(parts)
            seen = observe(parts, job["pictures"])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            seen.facts["error"] = f"{type(error).__name__}: {error} ({Path(last.filename).name})"
        tensors = {name: tensor.contiguous().clone() for name, tensor in seen.tensors.items()}
        save_file(tensors, task["output"] + ".safetensors")
        with open(task["output"] + ".json", "w", encoding="utf-8") as file:
            json.dump(seen.facts, file)


if __name__ == "__main__":
    run_job(sys.argv[1])
