"""Proof that a published folder works for others: it is read in a process that lacks our package.

The process starts in an empty folder with Python's isolated mode, our packages hidden, the network off and
caches of its own; it trusts the folder's code and loads it through every Auto class that the folder names
and the pipeline. What it computes must be what the source computes here, on the words of `examples/` and on
a fixed batch: `hub_reader` does the reading on both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from training.hub_reader import Observation, load_parts, observe
from training.hub_source import HubSource, read_weights

ROOT = Path(__file__).resolve().parent.parent
HIDDEN_PACKAGES = ("modeling_rcmstr", "training")
LIMIT_S = 900.0
# Of float32 on one machine; the absolute part is for values of about 1.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5
SHOWN_DIFFERENCES = 8
LAUNCH = """
import runpy, sys
program, job, *places = sys.argv[1:]
sys.path += [place for place in places if place not in sys.path]
sys.argv = [program, job]
runpy.run_path(program, run_name="__main__")
"""


class HubFolderError(ValueError):
    """A folder does not do what its source does."""


@dataclass(frozen=True)
class HubReading:
    """What a folder that passed its check showed.

    Args:
        parts: Auto classes through which it was loaded, and "pipeline".
        texts: what it reads in the words of `examples/`; empty for an encoder.
    """

    parts: list[str]
    texts: list[str]


def check_hub_folder(folder: Path, source: HubSource) -> HubReading:
    """Read a published folder without the package and compare it with its source.

    Args:
        folder: what `write_hub_folder` wrote.
        source: what it was written from.

    Raises:
        HubFolderError: naming what differs.
    """
    ((differences, reading),) = compare_hub_folders([(folder, source)])
    if differences:
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = len(differences) - SHOWN_DIFFERENCES
        raise HubFolderError(
            f"the folder for {source.folder} does not do what the source does, so it is not published: "
            f"{shown}" + (f"; and {more} more." if more > 0 else ".")
        )
    return reading


def compare_hub_folders(
    published: Sequence[tuple[Path, HubSource]],
) -> list[tuple[list[str], HubReading]]:
    """Compare published folders with their sources, all in one process without the package.

    Returns:
        For each folder what differs, nothing when all is well, and what it showed.

    Raises:
        HubFolderError: when the process itself failed.
    """
    pictures = [str(path) for path in fixed_words()]
    parts = [parts_to_load(folder, source) for folder, source in published]
    found = _observe_without_package([folder for folder, _ in published], parts, pictures)
    answers = []
    for (folder, source), names, theirs in zip(published, parts, found, strict=True):
        differences = list(_weight_differences(folder, source))
        if "error" in theirs.facts:
            differences.append(f"loading without the package failed with {theirs.facts['error']}")
        else:
            differences += _differences(observe_source(source, names, pictures), theirs)
        answers.append((differences, HubReading(names, list(theirs.facts.get("pipeline: texts", ())))))
    return answers


def fixed_words() -> list[Path]:
    """The fixed words: the pictures of `examples/`."""
    return sorted((ROOT / "examples").glob("word_*.jpg"))


def parts_to_load(folder: Path, source: HubSource) -> list[str]:
    """Everything through which a folder must be loadable: what its kind calls for and what it claims."""
    claimed = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("auto_map", {})
    parts = ["AutoConfig", "AutoImageProcessor", *source.model_classes]
    if source.kind == "recogniser":
        parts += ["AutoTokenizer", "AutoProcessor", "pipeline"]
    return [*parts, *sorted(set(claimed) - set(parts))]


def observe_source(source: HubSource, parts: Sequence[str], pictures: Sequence[str]) -> Observation:
    """What the source does in this process, with the package."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # an encoder does without the weights of the head, as it should
    try:
        classes, given = source.model_classes, {"AutoImageProcessor": source.image_processor}
        others = [name for name in parts if name not in classes and name not in given]
        loaded: dict[str, Any] = {**given, **load_parts(str(source.folder), others, trust=False)}
        for name, own in classes.items():
            loaded[name] = own.from_pretrained(source.folder, dtype=torch.float32)
        return observe({name: loaded[name] for name in parts}, pictures)
    except Exception as error:
        raise HubFolderError(
            f"{source.folder} itself cannot be run on the fixed words: {type(error).__name__}: {error}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _observe_without_package(
    folders: Sequence[Path], parts: Sequence[Sequence[str]], pictures: Sequence[str]
) -> list[Observation]:
    """Observe folders in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="hub_check_") as name:
        place = Path(name)
        stems = [place / f"folder-{number}" for number in range(len(folders))]
        job = {
            "hidden": HIDDEN_PACKAGES,
            "threads": torch.get_num_threads(),
            "pictures": list(pictures),
            "folders": [
                {"folder": str(folder.resolve()), "parts": list(names), "output": str(stem)}
                for folder, names, stem in zip(folders, parts, stems, strict=True)
            ],
        }
        (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (place / "empty").mkdir()
        # Where the libraries are, for those that Python's isolated mode would not find.
        libraries = {str(Path(str(module.__file__)).parents[1]) for module in (torch, transformers, numpy)}
        program = str(Path(__file__).with_name("hub_reader.py"))
        command = [sys.executable, "-I", "-c", LAUNCH, program, str(place / "job.json"), *sorted(libraries)]
        try:
            ended = subprocess.run(
                command,
                cwd=place / "empty",
                env=_bare_environment(place),
                stdin=subprocess.DEVNULL,  # nobody is there to be asked for trust
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HubFolderError(
                f"reading the folder without the package took more than {LIMIT_S:.0f} s."
            ) from error
        if ended.returncode:
            raise HubFolderError(
                "the process that reads without the package ended with "
                f"{ended.returncode}: {ended.stderr.strip()[-2000:]}"
            )
        return [
            Observation(
                load_file(f"{stem}.safetensors"),
                json.loads(Path(f"{stem}.json").read_text(encoding="utf-8")),
            )
            for stem in stems
        ]


def _bare_environment(place: Path) -> dict[str, str]:
    """This environment without Python's paths and the Hub's settings and tokens; offline, own caches."""
    dropped = ("PYTHON", "HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {
        **kept,
        "HF_HOME": str(place / "home"),
        "HF_MODULES_CACHE": str(place / "modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _weight_differences(folder: Path, source: HubSource) -> Iterable[str]:
    """Stored weights must be the source's, bit by bit."""
    try:
        theirs = read_weights(folder)
    except ValueError as error:
        yield str(error)
        return
    for name in sorted(set(source.tensors) ^ set(theirs)):
        yield f"weight `{name}` is {'missing' if name in source.tensors else 'unknown to the source'}"
    for name in sorted(set(source.tensors) & set(theirs)):
        mine, other = source.tensors[name], theirs[name]
        if mine.dtype != other.dtype or not torch.equal(mine, other):
            yield f"weight `{name}` has other values"


def _differences(mine: Observation, theirs: Observation) -> Iterable[str]:
    """Name what was seen otherwise."""
    for name in sorted(set(mine.facts) | set(theirs.facts)):
        yield from _fact_differences(name, mine.facts.get(name), theirs.facts.get(name))
    for name in sorted(set(mine.tensors) | set(theirs.tensors)):
        if name not in mine.tensors or name not in theirs.tensors:
            yield f"{name}: only the {'source' if name in mine.tensors else 'folder'} gives it"
            continue
        one, other = mine.tensors[name], theirs.tensors[name]
        if one.shape != other.shape:
            yield f"{name}: shape {tuple(one.shape)} of the source, {tuple(other.shape)} of the folder"
        elif not one.is_floating_point():
            if not torch.equal(one, other):
                yield f"{name}: other values"
        else:
            yield from _value_differences(name, one, other)


def _value_differences(name: str, mine: Tensor, theirs: Tensor) -> Iterable[str]:
    """Compare element by element: padded frames of CTC hold numbers that would hide all others."""
    if not mine.numel():
        return
    typical = mine.abs().median()
    allowed = ABSOLUTE_TOLERANCE * (1 + typical) + RELATIVE_TOLERANCE * mine.abs()
    apart = (mine - theirs).abs()
    far = ~(apart <= allowed)  # not-a-number is far
    if bool(far.any()):
        yield f"{name}: up to {apart[far].max():.3g} apart, at values like {typical:.3g}"


def _fact_differences(name: str, mine: Any, theirs: Any) -> Iterable[str]:
    if mine == theirs:
        return
    if isinstance(mine, dict) and isinstance(theirs, dict):
        changed = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        told = ", ".join(
            f"{key}: {mine.get(key)!r} of the source, {theirs.get(key)!r}" for key in changed[:3]
        )
        yield f"{name} ({told})"
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = [(one, other) for one, other in zip(mine, theirs, strict=True) if one != other]
        yield f"{name}: {pairs[0][0]!r} of the source, {pairs[0][1]!r} of the folder, {len(pairs)} in all"
    else:
        yield f"{name}: {mine!r} of the source, {theirs!r} of the folder"
