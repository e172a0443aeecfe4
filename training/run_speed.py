"""Words per second of a checkpoint against a peer, on the same words and threads, in one run.

Install the peer and compare on labelled words (any DATA of `run_benchmark`):
    pip install rapidocr onnxruntime
    python -m training.run_speed words/val --threads 2
Another checkpoint, more rounds, the result kept:
    python -m training.run_speed my_words --checkpoint runs/mine/final --rounds 9 --output speed.json
The same checkpoint as an ONNX graph beside PyTorch:
    python -m training.run_speed my_words --peer onnx
Without the peer, our own speed only:
    python -m training.run_speed my_words --no-peer

Both get the same decoded images in memory and do their own resizing, in batches. They take turns, round by
round, so that whatever else the machine does meets both; the ratio is taken within a round. The peer is one
of `word_readers.PEERS`, by default the recogniser inside the package `rapidocr` (PP-OCR small), or "onnx".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from modeling_rcmstr.image_reading import read_image
from training.benchmark_measurement import checkpoint_hash
from training.benchmark_sets import open_sets
from training.benchmarks import PROTOCOL, PROTOCOL_NAME, fingerprint
from training.metrics import RecognitionScores, score_words
from training.run_state import machine_kind, write_json_file
from training.word_readers import PEERS, Reader, onnx_reader, our_reader, peer_reader


@dataclass(frozen=True)
class ReaderResult:
    """Words per second of each round, and accuracy, of one reader."""

    name: str
    words_per_second: list[float]
    scores: RecognitionScores


@dataclass(frozen=True)
class SpeedRatio:
    """Shortest, middle and largest of the rounds' ratios of words per second, ours over the peer's."""

    low: float
    median: float
    high: float


def main(argv: Sequence[str]) -> int:
    """Arguments → words → readers → rounds → table; the exit status."""
    options = parse_speed_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    checkpoint = default_checkpoint() if options.checkpoint == "default" else Path(options.checkpoint)
    images, labels, words_hash = load_words(options.data, options.limit)
    readers = [our_reader(checkpoint, options.batch_size)]
    if options.peer == "onnx" and not options.no_peer:
        readers.append(onnx_reader(checkpoint, options.batch_size))
    elif not options.no_peer:
        readers.append(peer_reader(options.peer, options.threads, options.peer_batch_size))
    print(f"{len(images)} words, {options.threads} threads, {options.rounds} rounds", flush=True)
    results = alternate(readers, images, labels, options.rounds)
    print(format_results(results))
    report: dict[str, Any] = {
        "protocol": {"name": PROTOCOL_NAME, "text": PROTOCOL, "words": words_hash},
        "checkpoint_sha256": checkpoint_hash(checkpoint),
        "readers": [asdict(result) for result in results],
        "threads": options.threads,
        "batch_sizes": {"ours": options.batch_size, "peer": options.peer_batch_size},
        "machine": machine_kind(),
    }
    if len(results) > 1:
        comparison = compare(results[0], results[1])
        report["ratio"] = asdict(comparison)
        print(
            f"ratio ours / {results[1].name}: median {comparison.median:.1f}, rounds from "
            f"{comparison.low:.1f} to {comparison.high:.1f}"
        )
    if options.output is not None:
        write_json_file(Path(options.output), report)
    return 0


def parse_speed_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run_speed", description="Words per second against a peer."
    )
    parser.add_argument("data", nargs="+", help="labelled words, as for `run_benchmark`")
    parser.add_argument("--checkpoint", default="default", help="a checkpoint folder, or `default`")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each reader")
    parser.add_argument("--rounds", type=int, default=5, help="how often each reads all words")
    parser.add_argument("--batch-size", type=int, default=64, help="words that our model reads at once")
    parser.add_argument("--peer-batch-size", type=int, default=16, help="words that the peer reads at once")
    parser.add_argument("--limit", type=int, help="words of each set, at most")
    parser.add_argument("--peer", choices=[*PEERS, "onnx"], default="rapidocr", help="who reads beside us")
    parser.add_argument("--no-peer", action="store_true", help="measure our own speed only")
    parser.add_argument("--output", help="write the results to this JSON file")
    options = parser.parse_args(argv)
    if options.peer == "onnx":
        options.peer_batch_size = options.batch_size
    for name in ("threads", "rounds", "batch_size", "peer_batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


def load_words(places: Sequence[str], limit: int | None) -> tuple[list[np.ndarray], list[str], str]:
    """Decode every readable word into memory.

    Returns:
        (H, W, 3) uint8 images, labels, and the hash of the labelled files.
    """
    images, labels, hashes = [], [], []
    for place in places:
        for words in open_sets(place, limit):
            hashes.append(words.fingerprint)
            for image, label in zip(words.images, words.labels, strict=True):
                try:
                    images.append(np.asarray(read_image(image)))
                except (ValueError, OSError) as error:
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                labels.append(label)
    if not images:
        raise ValueError(f"no readable word in {', '.join(places)}.")
    return images, labels, fingerprint(hashes, hashes)


def alternate(
    readers: Sequence[Reader], images: list[np.ndarray], labels: list[str], rounds: int
) -> list[ReaderResult]:
    """Let the readers take turns on all words; the order within a round changes from round to round."""
    speeds: dict[str, list[float]] = {reader.name: [] for reader in readers}
    texts: dict[str, list[str]] = {}
    for reader in readers:
        reader.read(images[:64])
    for number in range(rounds):
        for reader in readers if number % 2 == 0 else list(readers)[::-1]:
            started = time.perf_counter()
            texts[reader.name] = reader.read(images)
            speeds[reader.name].append(len(images) / (time.perf_counter() - started))
    return [
        ReaderResult(reader.name, speeds[reader.name], score_words(texts[reader.name], labels))
        for reader in readers
    ]


def compare(ours: ReaderResult, peer: ReaderResult) -> SpeedRatio:
    """Ratios of words per second within each round."""
    ratios = [
        mine / theirs for mine, theirs in zip(ours.words_per_second, peer.words_per_second, strict=True)
    ]
    return SpeedRatio(min(ratios), statistics.median(ratios), max(ratios))


def format_results(results: Sequence[ReaderResult]) -> str:
    """One row per reader."""
    lines = [f"{'reader':<18}{'words/s median':>15}{'min':>8}{'max':>8}{'accuracy':>10}{'cased':>8}"]
    for result in results:
        speeds = result.words_per_second
        lines.append(
            f"{result.name:<18}{statistics.median(speeds):>15.0f}{min(speeds):>8.0f}{max(speeds):>8.0f}"
            f"{100 * result.scores.word_accuracy:>10.1f}{100 * result.scores.cased_accuracy:>8.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
