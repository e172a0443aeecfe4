"""Reading a benchmark set and scoring it: our pipeline or a peer, one set, several pooled, the whole report.

Everything is timed the same way: from encoded images to texts, so words per second include decoding. What was
read stays word by word (`Readings`), for the error analysis; what goes into results.json is `SetResult`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rcmstr.image_reading import read_image
from training.benchmark_sets import BenchmarkSet
from training.benchmarks import PROTOCOL, PROTOCOL_NAME, fingerprint
from training.metrics import RecognitionScores, score_words
from training.run_state import machine_kind
from training.word_readers import Reader


@dataclass(frozen=True)
class Readings:
    """What was read on one set, word by word.

    Args:
        texts: "" for unreadable images.
        confidences: in 0..1, 0 for unreadable images; empty when the reader gives none.
        unreadable: number of images that could not be read.
        seconds: time that it took, decoding included.
    """

    texts: list[str]
    confidences: list[float]
    unreadable: int
    seconds: float


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set, or on several pooled.

    Args:
        name: of the row.
        scores: see `RecognitionScores`.
        unreadable: images that could not be read; they count as read wrongly.
        seconds: time of reading.
        words_per_second: all words, unreadable ones included, by that time.
        fingerprint: of the set; of a pooled row, of its sets' fingerprints.
        members: the sets of a pooled row.
        protocol: name of the comparison.
    """

    name: str
    scores: RecognitionScores
    unreadable: int
    seconds: float
    words_per_second: float
    fingerprint: str
    members: list[str]
    protocol: str = PROTOCOL_NAME


@dataclass(frozen=True)
class ReaderReport:
    """Every row of one reader.

    Args:
        name: of the reader.
        results: one per set.
        pooled: one per group of sets.
        readings: set name → what was read.
    """

    name: str
    results: list[SetResult]
    pooled: list[SetResult]
    readings: dict[str, Readings] = field(repr=False)


def read_set(reader: Any, words: BenchmarkSet) -> Readings:
    """Read one set with the public pipeline."""
    started = time.perf_counter()
    answers = list(reader(words.images, on_error="return"))
    seconds = time.perf_counter() - started
    return Readings(
        [answer["text"] or "" for answer in answers],
        [float(answer["score"]) for answer in answers],
        sum("error" in answer for answer in answers),
        seconds,
    )


def read_set_with_peer(reader: Reader, words: BenchmarkSet) -> Readings:
    """Read one set with a peer, which gets decoded images; those that cannot be decoded count as wrong."""
    started = time.perf_counter()
    decoded: dict[int, np.ndarray] = {}
    for number, image in enumerate(words.images):
        try:
            decoded[number] = np.asarray(read_image(image))
        except (ValueError, OSError):
            continue
    texts = [""] * len(words.images)
    for number, text in zip(decoded, reader.read(list(decoded.values())), strict=True):
        texts[number] = text
    return Readings(texts, [], len(texts) - len(decoded), time.perf_counter() - started)


def score_readings(words: BenchmarkSet, readings: Readings) -> SetResult:
    """Compare what was read with the labels."""
    return SetResult(
        name=words.name,
        scores=score_words(readings.texts, words.labels),
        unreadable=readings.unreadable,
        seconds=readings.seconds,
        words_per_second=len(readings.texts) / readings.seconds,
        fingerprint=words.fingerprint,
        members=[],
    )


def pool(
    name: str, members: Sequence[str], sets: Sequence[BenchmarkSet], readings: dict[str, Readings]
) -> SetResult:
    """Score the words of several sets as one."""
    chosen = [words for words in sets if words.name in members]
    labels = [label for words in chosen for label in words.labels]
    parts = [readings[words.name] for words in chosen]
    seconds = sum(part.seconds for part in parts)
    return SetResult(
        name=name,
        scores=score_words([text for part in parts for text in part.texts], labels),
        unreadable=sum(part.unreadable for part in parts),
        seconds=seconds,
        words_per_second=len(labels) / seconds,
        fingerprint=fingerprint([words.name for words in chosen], [words.fingerprint for words in chosen]),
        members=[words.name for words in chosen],
    )


def report_reader(
    name: str,
    sets: Sequence[BenchmarkSet],
    groups: dict[str, list[str]],
    readings: dict[str, Readings],
) -> ReaderReport:
    """Score every set and group of one reader."""
    return ReaderReport(
        name,
        [score_readings(words, readings[words.name]) for words in sets],
        [pool(group, members, sets, readings) for group, members in groups.items()],
        readings,
    )


def mean_accuracy(results: Sequence[SetResult]) -> float:
    """Unweighted mean of the sets' word accuracies, those without a compared word left out."""
    return _mean([r.scores.word_accuracy for r in results if r.scores.words])


def sample_accuracy(results: Sequence[SetResult]) -> float:
    """Right words of all sets by compared words of all sets."""
    words = sum(result.scores.words for result in results)
    return sum(result.scores.correct for result in results) / words if words else math.nan


def describe_reader(report: ReaderReport) -> dict[str, Any]:
    """The rows of one reader, as they go into results.json."""
    return {
        "sets": [asdict(result) for result in report.results],
        "mean_word_accuracy": mean_accuracy(report.results),
        "sample_word_accuracy": sample_accuracy(report.results),
        "groups": [asdict(result) for result in report.pooled],
    }


def describe_measurement(
    checkpoint: Path, name: str, ours: ReaderReport, peers: Sequence[ReaderReport], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything a reader of the numbers needs, as it goes into results.json.

    Args:
        checkpoint: its folder.
        name: what to call it.
        ours: rows of the checkpoint.
        peers: rows of the peers.
        settings: of the run, added as they are.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return {
        "protocol": {"name": PROTOCOL_NAME, "text": PROTOCOL},
        "checkpoint": {
            "name": name,
            "sha256": checkpoint_hash(checkpoint),
            "model_type": config.get("model_type"),
            "architectures": config.get("architectures"),
        },
        **describe_reader(ours),
        "peers": [{"name": peer.name, **describe_reader(peer)} for peer in peers],
        **settings,
        "machine": machine_kind(),
    }


def checkpoint_hash(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weight files, in the order of their names.

    Raises:
        ValueError: when there are none.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{str(checkpoint)!r} holds no .safetensors file.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
