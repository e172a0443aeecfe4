"""Measure how fast the words of a source are read, decoded and distorted, and whether memory stays flat.

    python -m training.measure_source lmdb:words --rows 100000
    python -m training.measure_source parquet:words --rows 100000 --in-order

Rows are read as a data worker reads them: in a random order, in one thread, decoded, resized to 32 x 128 and,
for contrastive pretraining, distorted into two views. A step of B words in t seconds needs B / t words a
second from all data workers together. Memory is what the process itself holds; pages of mapped files, which
the system takes back at will, are given apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from huggingface_hub.utils import tqdm

from modeling_rcmstr import TextRecognitionImageProcessor
from training.collation import UNREADABLE, WordResizer
from training.run_state import machine_kind, write_json_file
from training.source_interface import WordSource
from training.view_augmentation import make_view
from training.word_rows import encoded_content
from training.word_sources import name_source, open_source

MEBIBYTE = 1 << 20
# What is done with rows, a third of them each.
WORK = ("read", "decoded", "viewed")
# Rows between two looks at the memory.
LOOK_EVERY = 1000
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class SourceMeasurement:
    """Figures of one source.

    Args:
        source: its name.
        size: rows that it has; None for an endless one.
        rows: that were read.
        unreadable: of them.
        open_seconds: until the first row could be asked for.
        read_rows_per_second: encoded images and labels only.
        decoded_rows_per_second: read, decoded and resized.
        viewed_rows_per_second: the same, and distorted into both views of contrastive pretraining.
        read_rows_per_cpu_second: by processor time, which other work on the machine does not slow.
        decoded_rows_per_cpu_second: likewise.
        viewed_rows_per_cpu_second: likewise.
        kilobytes_per_row: of the encoded images.
        held_start_mib: memory that the process held when the source was open, without mapped files.
        held_peak_mib: the most that it held while rows were read; None where the system does not tell.
        peak_rss_mib: the most that was resident, pages of mapped files included.
    """

    source: str
    size: int | None
    rows: int
    unreadable: int
    open_seconds: float
    read_rows_per_second: float
    decoded_rows_per_second: float
    viewed_rows_per_second: float
    read_rows_per_cpu_second: float
    decoded_rows_per_cpu_second: float
    viewed_rows_per_cpu_second: float
    kilobytes_per_row: float
    held_start_mib: float | None
    held_peak_mib: float | None
    peak_rss_mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse_options(arguments)
    cv2.setNumThreads(0)  # as a data worker
    start = time.perf_counter()
    try:
        source = open_source(name_source(options.source), labelled=not options.unlabelled)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    result = measure_rows(source, options.rows, options.in_order, time.perf_counter() - start)
    print(json.dumps(asdict(result), indent=2))
    if options.output is not None:
        write_json_file(options.output, {**asdict(result), "machine": machine_kind()})
    return 0


def measure_rows(
    source: WordSource, rows: int, in_order: bool, open_seconds: float = 0.0
) -> SourceMeasurement:
    """Read rows three times: encoded, decoded, distorted; others each time, so that none is in memory yet.

    Args:
        source: to read.
        rows: of each of the three; a small source is read again and again.
        in_order: one after the other, instead of at random; an endless source always is.
        open_seconds: what opening took.
    """
    numbers = row_numbers(source, len(WORK) * rows, in_order)
    resizer = WordResizer(TextRecognitionImageProcessor())
    held_start = held_peak = held_mib()
    seconds, cpu_seconds = dict.fromkeys(WORK, 0.0), dict.fromkeys(WORK, 0.0)
    size = unreadable = 0
    with tqdm(total=len(numbers), unit="word", disable=None) as progress:
        for work, first, stop in _spans(rows):
            start, start_cpu = time.perf_counter(), time.process_time()
            for number in map(int, numbers[first:stop]):
                try:
                    image = source.row(number)["image"]
                    if work == "read":
                        size += len(encoded_content(image))
                        continue
                    pixels = resizer(image)
                    if work == "viewed":
                        for view in range(2):
                            make_view(pixels, seed=0, epoch=0, index=number, view=view)
                except UNREADABLE:
                    unreadable += 1
            seconds[work] += time.perf_counter() - start
            cpu_seconds[work] += time.process_time() - start_cpu
            held = held_mib()
            held_peak = held if held is None or held_peak is None else max(held, held_peak)
            progress.update(stop - first)
    rates = {f"{work}_rows_per_second": round(rows / seconds[work]) for work in WORK}
    cpu_rates = {f"{work}_rows_per_cpu_second": round(rows / cpu_seconds[work]) for work in WORK}
    return SourceMeasurement(
        source=source.name,
        size=source.size,
        rows=len(numbers),
        unreadable=unreadable,
        open_seconds=round(open_seconds, 2),
        **rates,
        **cpu_rates,
        kilobytes_per_row=round(size / rows / 1000, 2),
        held_start_mib=held_start,
        held_peak_mib=held_peak,
        peak_rss_mib=peak_rss_mib(),
    )


def _spans(rows: int) -> Iterator[tuple[str, int, int]]:
    """What is done, with starts and ends of what is read between two looks."""
    for place, work in enumerate(WORK):
        begin = place * rows
        for first in range(begin, begin + rows, LOOK_EVERY):
            yield work, first, min(first + LOOK_EVERY, begin + rows)


def row_numbers(source: WordSource, count: int, in_order: bool) -> np.ndarray:
    """Rows to be read: a fresh permutation per pass over a finite source, as in training."""
    if source.size is None:
        return np.arange(count)
    if in_order:
        return np.arange(count) % source.size
    passes = -(-count // source.size)
    orders = [np.random.default_rng(number).permutation(source.size) for number in range(passes)]
    return np.concatenate(orders)[:count]


def held_mib() -> float | None:
    """Memory of this process without mapped files, in MiB; None where the system does not tell."""
    if not STATUS.is_file():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return round(int(lines["RssAnon"].split()[0]) / 1024, 1) if "RssAnon" in lines else None


def peak_rss_mib() -> float:
    """The most memory that was resident, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / MEBIBYTE if sys.platform == "darwin" else peak / 1024, 1)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.measure_source",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a path, or a source as `training.word_sources` names them")
    parser.add_argument(
        "--rows",
        type=int,
        default=20_000,
        help="rows read, as many decoded, and as many distorted (default %(default)s)",
    )
    parser.add_argument("--in-order", action="store_true", help="one row after the other, not at random")
    parser.add_argument("--unlabelled", action="store_true", help="images only, no label is asked for")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
