r"""Measure a checkpoint on labelled words: accuracy, edit distance, speed, and the protocol beside them.

The bundled recogniser on five folders, the scene words among them pooled too:
    python -m training.run_benchmark default words/val \
        --group scene=iiit5k_train,svt_train,ic15_train
The public test sets, found by name in a folder; what is missing or has another size is said:
    python -m training.run_benchmark default evaluation --protocol common-benchmarks --output results.json
With a page of error analysis, and other recognisers on the same words and threads:
    python -m training.run_benchmark runs/mine/final my_words --report out --peer tesseract --peer rapidocr
For a card: also how accuracy falls as images get worse:
    python -m training.run_benchmark runs/mine my_words --robustness --output runs/mine/results.json
A parquet file, two threads, a quick look at 200 words:
    python -m training.run_benchmark default words.parquet --threads 2 --limit 200

Reads through the public pipeline, as a user would; words per second include reading and decoding the image
files. What is compared and how is said in `training/benchmarks.py` and printed under the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from training.benchmark_calibration import describe_calibration
from training.benchmark_measurement import (
    ReaderReport,
    SetResult,
    describe_measurement,
    mean_accuracy,
    read_set,
    read_set_with_peer,
    report_reader,
    sample_accuracy,
)
from training.benchmark_report import write_benchmark_report
from training.benchmark_sets import BenchmarkSet, FoundSets, find_sets, open_sets
from training.benchmarks import BENCHMARKS, PROTOCOL, PROTOCOL_NAME, choose_benchmark
from training.error_analysis import make_records
from training.robustness import choose_sample, describe_robustness, measure_robustness
from training.run_state import write_json_file
from training.word_readers import PEERS, Reader, open_reader, peer_reader

# Words read once before the clock starts: the first batches pay for lazy initialisation.
WARM_UP_WORDS = 64


def main(argv: Sequence[str]) -> int:
    """Arguments → sets → checkpoint and peers → read → table → results.json and page; the exit status."""
    options = parse_benchmark_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    peers = [peer_reader(name, torch.get_num_threads(), options.peer_batch_size) for name in options.peer]
    found = choose_sets(options)
    groups = parse_groups(options.group, [words.name for words in found.sets])
    checkpoint = default_checkpoint() if options.checkpoint == "default" else Path(options.checkpoint)
    reader = open_reader(checkpoint, options.batch_size)
    ours, theirs = measure_all(reader, peers, found.sets, groups)
    name = "default" if options.checkpoint == "default" else checkpoint.name
    measurement = describe_measurement(checkpoint, name, ours, theirs, run_settings(options, found))
    records = make_records(found.sets, ours.readings)
    measurement["calibration"] = describe_calibration(records, options.precision, groups)
    curves = None
    if options.robustness:
        sample = choose_sample(records)
        curves = measure_robustness(reader, sample)
        measurement["robustness"] = describe_robustness(curves, len(sample))
    averaged = options.protocol is None or choose_benchmark(options.protocol).averaged
    for report in (ours, *theirs):
        title = f"\n{report.name}\n" if theirs else ""
        print(title + format_table(report.results, report.pooled, averaged))
    for notice in found.notices:
        print(f"note: {notice}")
    print(f"\n{PROTOCOL_NAME}: {PROTOCOL}")
    sha256 = measurement["checkpoint"]["sha256"]
    print(f"checkpoint {sha256[:16]}  threads {torch.get_num_threads()}  batch {options.batch_size}")
    if options.output is not None:
        write_json_file(Path(options.output), measurement)
        print(f"written: {options.output}")
    if options.report is not None:
        page = write_benchmark_report(
            Path(options.report), measurement, found.sets, [ours, *theirs], reader, options.precision, curves
        )
        print(f"written: {page}")
    return 0


def parse_benchmark_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run_benchmark", description="Measure a checkpoint on labelled words."
    )
    parser.add_argument("checkpoint", help="a checkpoint folder, or `default` for the bundled recogniser")
    parser.add_argument(
        "data",
        nargs="+",
        help="folder with labels, folder of such folders, parquet file, or kind:place; with --protocol, the "
        "folder that holds the test sets",
    )
    parser.add_argument(
        "--protocol",
        choices=list(BENCHMARKS),
        help="find these test sets in DATA and hold them to their sizes",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=list(PEERS),
        help="also measure this recogniser, on the same words and threads; may be given several times",
    )
    parser.add_argument(
        "--peer-batch-size", type=_positive, default=16, help="words that a peer reads at once"
    )
    parser.add_argument("--output", help="write the results to this JSON file")
    parser.add_argument("--report", metavar="FOLDER", help="write index.html with an error analysis into it")
    parser.add_argument(
        "--precision",
        type=_share,
        default=0.95,
        help="in the calibration: share of the accepted words that shall be right; default 0.95",
    )
    parser.add_argument(
        "--robustness", action="store_true", help="also read a sample under distortions, for the results"
    )
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
    options = parser.parse_args(argv)
    options.peer = list(dict.fromkeys(options.peer))
    return options


def choose_sets(options: argparse.Namespace) -> FoundSets:
    """The sets that the command line names.

    Raises:
        ValueError: when nothing labelled is there, or `--protocol` comes with several folders.
    """
    if options.protocol is None:
        sets = [words for place in options.data for words in open_sets(place, options.limit)]
        return FoundSets(sets, {}, [], [])
    if len(options.data) != 1:
        raise ValueError(f"--protocol needs one folder that holds the test sets, got {len(options.data)}.")
    return find_sets(choose_benchmark(options.protocol), options.data[0], options.limit)


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


def measure_all(
    reader: Any, peers: Sequence[Reader], sets: Sequence[BenchmarkSet], groups: dict[str, list[str]]
) -> tuple[ReaderReport, list[ReaderReport]]:
    """Let the checkpoint and every peer read every set, each warmed up first.

    Returns:
        The checkpoint's report, and the peers'.
    """
    images = [image for words in sets for image in words.images][:WARM_UP_WORDS]
    list(reader(images, on_error="return"))
    ours = report_reader("ours", sets, groups, {words.name: read_set(reader, words) for words in sets})
    theirs = []
    for peer in peers:
        read_set_with_peer(peer, BenchmarkSet("", images, [""] * len(images), ""))
        readings = {words.name: read_set_with_peer(peer, words) for words in sets}
        theirs.append(report_reader(peer.name, sets, groups, readings))
    return ours, theirs


def run_settings(options: argparse.Namespace, found: FoundSets) -> dict[str, Any]:
    """How the run was called, as it goes into results.json."""
    benchmark = None
    if options.protocol is not None:
        chosen = choose_benchmark(options.protocol)
        benchmark = {
            "name": chosen.name,
            "text": chosen.text,
            "averaged": chosen.averaged,
            "missing": found.missing,
            "notices": found.notices,
        }
    return {
        "benchmark": benchmark,
        "batch_size": options.batch_size,
        "peer_batch_size": options.peer_batch_size if options.peer else None,
        "limit": options.limit,
    }


def format_table(results: Sequence[SetResult], pooled: Sequence[SetResult], averaged: bool = True) -> str:
    """One row per set, their means, and the pooled groups; accuracies in percent.

    Args:
        results: of the sets.
        pooled: of the groups.
        averaged: whether to show means over the sets.
    """
    header = f"{'set':<24}{'words':>7}{'accuracy':>10}{'95 % interval':>16}"
    header += f"{'cased':>8}{'1-NED':>8}{'CER':>8}{'words/s':>9}  {PROTOCOL_NAME}"
    lines = [header, "-" * len(header)]
    lines += [_table_row(result) for result in results]
    if averaged and len(results) > 1:
        words = sum(result.scores.words for result in results)
        lines.append(f"{'mean of the sets':<24}{'':>7}{100 * mean_accuracy(results):>10.1f}")
        lines.append(f"{'mean over words':<24}{words:>7}{100 * sample_accuracy(results):>10.1f}")
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
        f"{result.name:<24}{scores.words:>7}{100 * scores.word_accuracy:>10.1f}{interval:>16}"
        f"{100 * scores.cased_accuracy:>8.1f}{100 * scores.one_minus_ned:>8.1f}"
        f"{100 * scores.character_error_rate:>8.1f}{result.words_per_second:>9.0f}  {result.fingerprint}"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must lie above 0 and up to 1, got {number:g}; write 95 % as 0.95")
    return number


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
