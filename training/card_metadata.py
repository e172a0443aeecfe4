"""The metadata at the top of a model card: made from what lies beside the weights, held to the Hub's rules.

`ModelCardData` and `EvalResult` of huggingface_hub say the form. What else the Hub refuses or warns of, and
what can be known without asking it, is checked by `check_card`; the Hub's own answer needs the network
(`huggingface_hub.ModelCard.validate`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, InferenceClient, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TASK = "image-to-text"
TASK_NAME = "Text Recognition"
# Tasks of the Hub that its inference client has no method for.
FURTHER_TASKS = {"image-feature-extraction"}
# Key of the scores → identifier of the metric, name for people, whether case counts.
METRICS = {
    "word_accuracy": ("accuracy", "Word accuracy, letters and digits, case ignored", False),
    "cased_accuracy": ("accuracy", "Word accuracy, every character, case counts", True),
    "one_minus_ned": ("one_minus_ned", "1 - normalised edit distance, case ignored", False),
    "character_error_rate": ("cer", "Character error rate, case counts", True),
}
DIGITS = 4
# Identifiers of https://huggingface.co/docs/hub/repositories-licenses that weights are published under.
LICENCE_PATTERN = re.compile(
    r"apache-2\.0|mit|(bigscience-|creativeml-|bigcode-)?openrail(-m|\+\+)?|afl-3\.0|artistic-2\.0|bsl-1\.0"
    r"|bsd(-2-clause|-3-clause(-clear)?)?|cc|cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-[234]\.[05]|ecl-2\.0|epl-[12]\.0"
    r"|eupl-1\.[12]|agpl-3\.0|gfdl|gpl(-[23]\.0)?|lgpl(-2\.1|-3\.0)?|isc|mpl-2\.0|ms-pl|ncsa|odbl|odc-by"
    r"|osl-3\.0|postgresql|unlicense|zlib|wtfpl|unknown|other"
)


def recogniser_metadata(
    name: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    datasets: Sequence[str],
    licence: str,
    languages: Sequence[str],
) -> ModelCardData:
    """Metadata of a recogniser.

    Args:
        name: of the model, in the `model-index`.
        config: of the checkpoint.
        results: what `run_benchmark` wrote; without them there is no `model-index`.
        datasets: identifiers of the training data.
        licence: of the weights, in the Hub's words.
        languages: ISO 639 codes.
    """
    results = results if results and results["sets"] else None
    return ModelCardData(
        language=list(languages),
        license=licence,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["text-recognition", "ocr", "scene-text-recognition", config["model_type"]]
        + [config["decoder_type"]],
        datasets=list(datasets) or None,
        metrics=["accuracy", "cer"],
        model_name=name if results else None,
        eval_results=evaluation_results(results) if results else None,
    )


def encoder_metadata(
    config: Mapping[str, Any], datasets: Sequence[str], licence: str, languages: Sequence[str]
) -> ModelCardData:
    """Metadata of a pretrained encoder: it reads nothing, so it has no results."""
    return ModelCardData(
        language=list(languages),
        license=licence,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["text-recognition", "scene-text-recognition", "self-supervised", config["model_type"]],
        datasets=list(datasets) or None,
    )


def evaluation_results(results: Mapping[str, Any]) -> list[EvalResult]:
    """Every metric of every set, each with the protocol's name, the number of words and the fingerprint.

    Args:
        results: what `run_benchmark` wrote. Its groups repeat words of its sets and are left out.
    """
    protocol = results["protocol"]["name"]
    return [
        EvalResult(
            task_type=TASK,
            task_name=TASK_NAME,
            dataset_type=one["name"],
            dataset_name=f"{one['name']}, {one['scores']['words']:,} words",
            dataset_args={
                "protocol": protocol,
                "words": one["scores"]["words"],
                "fingerprint": one["fingerprint"],
            },
            metric_type=metric,
            metric_name=name,
            metric_args={"protocol": protocol, "case_sensitive": cased},
            metric_value=round(one["scores"][key], DIGITS),
        )
        for one in results["sets"]
        if one["scores"]["words"]
        for key, (metric, name, cased) in METRICS.items()
    ]


def check_card(text: str, folder: Path | None = None) -> ModelCard:
    """Hold a card to the rules of the Hub that need no network.

    Args:
        text: of a README.md.
        folder: where the card lies; its relative links must then lead to files.

    Returns:
        The card, as huggingface_hub loads it.

    Raises:
        ValueError: naming every broken rule.
    """
    match = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if match is None:
        raise ValueError("a card must begin with its metadata between two lines `---`.")
    try:
        data = yaml.load(match[1], Loader=_NoDuplicates)
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata are not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the metadata must be a mapping of keys to values, got {type(data).__name__}.")
    broken = [*_broken_fields(data), *_broken_results(data)]
    if broken:
        raise ValueError("the card's metadata break rules of the Hub: " + "; ".join(broken) + ".")
    # Raises ValueError itself where the model-index has another form.
    card = ModelCard(text)
    if card.data.to_dict() != data:
        raise ValueError("the card's metadata do not survive loading and saving by huggingface_hub.")
    if folder is not None and (lost := lost_links(text, folder)):
        raise ValueError(f"the card links to what is not beside it: {', '.join(lost)}.")
    return card


def lost_links(text: str, folder: Path) -> list[str]:
    """Relative links and pictures of a card that lead to no file of its folder."""
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
    return [target for target in dict.fromkeys(targets) if not (folder / target).exists()]


class _NoDuplicates(yaml.SafeLoader):
    """Refuses a key that stands twice, as the Hub does; PyYAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"keys that stand twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep)


def _broken_fields(data: Mapping[str, Any]) -> Iterator[str]:
    for key in ("license", "library_name", "pipeline_tag"):
        if not isinstance(data.get(key), str):
            yield f"`{key}` must be a text, got {data.get(key)!r}"
    licence, tag = str(data.get("license")), str(data.get("pipeline_tag"))
    if not LICENCE_PATTERN.fullmatch(licence):
        yield f"`license` must be an identifier of the Hub such as apache-2.0, got {licence!r}"
    if licence == "other" and not data.get("license_name"):
        yield "`license: other` needs a `license_name`"
    if tag not in FURTHER_TASKS and not hasattr(InferenceClient, tag.replace("-", "_")):
        yield f"`pipeline_tag` must be a task of the Hub such as {TASK}, got {tag!r}"
    yield from _broken_lists(data)


def _broken_lists(data: Mapping[str, Any]) -> Iterator[str]:
    languages = data.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        # Unquoted, `no` is a truth value in YAML.
        if not isinstance(language, str) or not re.fullmatch(r"[a-z]{2,3}|code|multilingual", language):
            yield f"`language` must hold ISO 639 codes such as en, got {language!r}"
    for key in ("tags", "datasets", "metrics"):
        values = data.get(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
            yield f"`{key}` must be a list of texts, got {values!r}"
        elif len(set(values)) != len(values):
            yield f"`{key}` names something twice: {values!r}"
        elif key == "datasets":
            yield from (f"`datasets`: {error}" for error in map(_identifier_error, values) if error)


def _broken_results(data: Mapping[str, Any]) -> Iterator[str]:
    for model in data.get("model-index", []):
        if not model.get("name") or not model.get("results"):
            yield "every model of `model-index` needs `name` and `results`"
        for result in model.get("results", []):
            dataset, metrics = result.get("dataset", {}), result.get("metrics", [])
            if not result.get("task", {}).get("type"):
                yield "every result of `model-index` needs a `task` with its `type`"
            if not dataset.get("type") or not dataset.get("name"):
                yield "every result of `model-index` needs a `dataset` with `type` and `name`"
            if not metrics:
                yield f"the result of {dataset.get('name')!r} has no `metrics`"
            for metric in metrics:
                value = metric.get("value")
                if not metric.get("type") or isinstance(value, bool) or not isinstance(value, int | float):
                    yield f"a metric of {dataset.get('name')!r} needs `type` and a number, got {metric!r}"
                elif not math.isfinite(value):
                    yield f"the {metric['type']} of {dataset.get('name')!r} is {value}, which is no number"


def _identifier_error(identifier: str) -> str:
    try:
        validate_repo_id(identifier)
    except HFValidationError as error:
        return str(error)
    return ""
