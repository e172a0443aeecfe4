r"""Measure a checkpoint on labelled words: accuracy, edit distance, speed, and the protocol beside them.

The bundled recogniser on five folders, the scene words among them pooled too:
    python -m training.run_benchmark default words/val \
        --group scene=iiit5k_train,svt_train,ic15_train
A checkpoint of your own on your own words (labels.tsv, metadata.csv or gt.txt), the result kept:
    python -m training.run_benchmark runs/mine/final my_words --output results.json
A parquet file, two threads, a quick look at 200 words:
    python -m training.run_benchmark default words.parquet --threads 2 --limit 200

Reads through the public pipeline, as a user would; words per second include reading and decoding the image
files. What is compared and how is said in `training/benchmarks.py` and printed under the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from training.benchmarks import PROTOCOL, PROTOCOL_NAME, fingerprint
from training.folder_source import LABEL_FILES
from training.metrics import RecognitionScores, score_words
from training.run_state import machine_kind, write_json_file
from training.source_interface import WordSource
from training.word_sources import SOURCE_KINDS, open_source

# Words read once before the clock starts: the first batches pay for lazy initialisation.
WARM_UP_WORDS = 64


@dataclass(frozen=True)
class BenchmarkSet:
    """Labelled words under one name.

    Args:
        name: of the row in the table.
        images: what the pipeline reads, one per word.
        labels: one per word.
        fingerprint: identifies protocol, files and labels.
    """

    name: str
    images: list[Any]
    labels: list[str]
    fingerprint: str


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set, or on several pooled.

    Args:
        name: of the row.
        scores: see `RecognitionScores`.
        unreadable: images that could not be read; they count as read wrongly.
        seconds: time of the pipeline call.
        words_per_second: all words, unreadable ones included, by that time.
        fingerprint: of the set; of a pooled row, of its sets' fingerprints.
        members: the sets of a pooled row.
    """

    name: str
    scores: RecognitionScores
    unreadable: int
    seconds: float
    words_per_second: float
    fingerprint: str
    members: list[str]


def main(argv: Sequence[str]) -> int:
    """Arguments → sets → checkpoint → read → table → results.json; the exit status."""
    options = parse_benchmark_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    sets = [words for place in options.data for words in open_sets(place, options.limit)]
    groups = parse_groups(options.group, [words.name for words in sets])
    checkpoint = default_checkpoint() if options.checkpoint == "default" else Path(options.checkpoint)
    reader: Any = open_reader(checkpoint, options.batch_size)
    list(reader([image for words in sets for image in words.images][:WARM_UP_WORDS], on_error="return"))
    predictions, results = {}, []
    for words in sets:
        predictions[words.name], result = measure(reader, words)
        results.append(result)
    pooled = [pool(name, members, sets, predictions, results) for name, members in groups.items()]
    report = make_report(checkpoint, options, results, pooled)
    print(format_table(results, pooled))
    print(f"\n{PROTOCOL_NAME}: {PROTOCOL}")
    sha256 = report["checkpoint"]["sha256"]
    print(f"checkpoint {sha256[:16]}  threads {torch.get_num_threads()}  batch {options.batch_size}")
    if options.output is not None:
        write_json_file(Path(options.output), report)
        print(f"written: {options.output}")
    return 0


def parse_benchmark_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run_benchmark", description="Measure a checkpoint on labelled words."
    )
    parser.add_argument("checkpoint", help="a checkpoint folder, or `default` for the bundled recogniser")
    parser.add_argument(
        "data", nargs="+", help="folder with labels, folder of such folders, parquet file, or kind:place"
    )
    parser.add_argument("--output", help="write the results to this JSON file")
    parser.add_argument("--batch-size", type=_positive, default=32, help="words that the model reads at once")
    parser.add_argument("--threads", type=_positive, help="CPU threads; default: the library's choice")
    parser.add_argument("--limit", type=_positive, help="words of each set, at most, from its start")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=SET,SET",
        help="a further row: these sets' words together",
    )
    return parser.parse_args(argv)


def open_sets(place: str, limit: int | None = None) -> list[BenchmarkSet]:
    """Open what a DATA argument names; a folder of labelled folders gives one set each, by name.

    Raises:
        ValueError: when nothing labelled is there.
    """
    if place.partition(":")[0] in SOURCE_KINDS:
        return [load_set(_name_of(place.partition(":")[2].partition("?")[0]), open_source(place), limit)]
    path = Path(place)
    if path.is_file() and path.suffix == ".parquet":
        return [load_set(path.stem, open_source(f"parquet:{place}"), limit)]
    if _is_labelled(path):
        return [load_set(_name_of(place), open_source(f"folder:{place}"), limit)]
    folders = sorted(child for child in path.iterdir() if _is_labelled(child)) if path.is_dir() else []
    if not folders:
        raise ValueError(
            f"{place!r} is neither a parquet file, nor a folder with one of {', '.join(LABEL_FILES)}, "
            "nor a folder of such folders."
        )
    return [load_set(folder.name, open_source(f"folder:{folder}"), limit) for folder in folders]


def load_set(name: str, source: WordSource, limit: int | None) -> BenchmarkSet:
    """Take the rows of a source, images still encoded.

    Raises:
        ValueError: for a source without an end when there is no limit.
    """
    if source.size is None and limit is None:
        raise ValueError(f"source {source.name!r} has no end; give --limit.")
    count = min(size for size in (source.size, limit) if size is not None)
    rows = [source.row(index) for index in range(count)]
    labels = [row["text"] for row in rows]
    return BenchmarkSet(
        name,
        [row["image"] for row in rows],
        labels,
        fingerprint([source.group(i) for i in range(count)], labels),
    )


def parse_groups(texts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Read `NAME=SET,SET` arguments.

    Raises:
        ValueError: for another form, an unknown set, or two rows of one name.
    """
    duplicates = sorted({name for name in names if list(names).count(name) > 1})
    if duplicates:
        raise ValueError(
            f"several sets are called {duplicates}; measure them one by one, or rename their folders."
        )
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, separator, members = text.partition("=")
        chosen = [member for member in members.split(",") if member]
        unknown = sorted(set(chosen) - set(names))
        if not separator or not name or not chosen or unknown or name in groups or name in names:
            raise ValueError(
                f"a group must read `NAME=SET,SET` with a new name and sets among {', '.join(names)}; "
                f"got {text!r}."
            )
        groups[name] = list(dict.fromkeys(chosen))
    return groups


def open_reader(checkpoint: Path, batch_size: int) -> Any:
    """The public pipeline on a checkpoint.

    Raises:
        ValueError: when the folder is no checkpoint.
    """
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{str(checkpoint)!r} is no checkpoint: it holds no config.json.")
    make: Any = transformers.pipeline  # Its overloads name the library's own tasks only.
    return make("text-recognition", model=str(checkpoint), batch_size=batch_size)


def measure(reader: Any, words: BenchmarkSet) -> tuple[list[str], SetResult]:
    """Read one set and compare.

    Returns:
        The predictions ("" for unreadable images) and the result.
    """
    started = time.perf_counter()
    answers = list(reader(words.images, on_error="return"))
    seconds = time.perf_counter() - started
    predictions = [answer["text"] or "" for answer in answers]
    unreadable = sum("error" in answer for answer in answers)
    result = SetResult(
        name=words.name,
        scores=score_words(predictions, words.labels),
        unreadable=unreadable,
        seconds=seconds,
        words_per_second=len(answers) / seconds,
        fingerprint=words.fingerprint,
        members=[],
    )
    return predictions, result


def pool(
    name: str,
    members: Sequence[str],
    sets: Sequence[BenchmarkSet],
    predictions: dict[str, list[str]],
    results: Sequence[SetResult],
) -> SetResult:
    """Score the words of several sets as one."""
    chosen = [words for words in sets if words.name in members]
    parts = [result for result in results if result.name in members]
    labels = [label for words in chosen for label in words.labels]
    seconds = sum(result.seconds for result in parts)
    return SetResult(
        name=name,
        scores=score_words([text for words in chosen for text in predictions[words.name]], labels),
        unreadable=sum(result.unreadable for result in parts),
        seconds=seconds,
        words_per_second=len(labels) / seconds,
        fingerprint=fingerprint([words.name for words in chosen], [words.fingerprint for words in chosen]),
        members=[words.name for words in chosen],
    )


def make_report(
    checkpoint: Path, options: argparse.Namespace, results: Sequence[SetResult], pooled: Sequence[SetResult]
) -> dict[str, Any]:
    """Everything a reader of the numbers needs, as it goes into results.json."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return {
        "protocol": {"name": PROTOCOL_NAME, "text": PROTOCOL},
        "checkpoint": {
            "name": "default" if options.checkpoint == "default" else checkpoint.name,
            "sha256": checkpoint_hash(checkpoint),
            "model_type": config.get("model_type"),
            "architectures": config.get("architectures"),
        },
        "sets": [asdict(result) for result in results],
        "mean_word_accuracy": _mean([result.scores.word_accuracy for result in results]),
        "groups": [asdict(result) for result in pooled],
        "batch_size": options.batch_size,
        "limit": options.limit,
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


def format_table(results: Sequence[SetResult], pooled: Sequence[SetResult]) -> str:
    """One row per set, their unweighted mean, and the pooled groups; accuracies in percent."""
    header = f"{'set':<20}{'words':>7}{'accuracy':>10}{'95 % interval':>16}"
    header += f"{'cased':>8}{'1-NED':>8}{'CER':>8}{'words/s':>9}"
    lines = [header, "-" * len(header)]
    lines += [_table_row(result) for result in results]
    if len(results) > 1:
        lines.append(
            f"{'mean of the sets':<20}{'':>7}{100 * _mean([r.scores.word_accuracy for r in results]):>10.1f}"
        )
    lines += [_table_row(result) for result in pooled]
    for result in (*results, *pooled):
        if result.unreadable or result.scores.empty_labels:
            lines.append(
                f"{result.name}: {result.unreadable} unreadable images, {result.scores.empty_labels} words "
                "left out of the accuracy (label without letters and digits)"
            )
    return "\n".join(lines)


def _table_row(result: SetResult) -> str:
    scores = result.scores
    interval = f"{100 * scores.interval.low:.1f}-{100 * scores.interval.high:.1f}"
    return (
        f"{result.name:<20}{scores.words:>7}{100 * scores.word_accuracy:>10.1f}{interval:>16}"
        f"{100 * scores.cased_accuracy:>8.1f}{100 * scores.one_minus_ned:>8.1f}"
        f"{100 * scores.character_error_rate:>8.1f}{result.words_per_second:>9.0f}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_labelled(path: Path) -> bool:
    return any((path / name).is_file() for name in LABEL_FILES)


def _name_of(place: str) -> str:
    return Path(place).resolve().stem if place else "rendered"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
