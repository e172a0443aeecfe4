"""Recognisers that are measured side by side: ours, and the peers that other people publish.

A reader maps decoded images to texts and does its own resizing. Peers read with their own settings but for
threads and batch size, recognition only, no detection:

    rapidocr     PP-OCR small on ONNX Runtime, from the package `rapidocr`
    tesseract    the program `tesseract`, its English model, every image a single word (`--psm 8`)

`onnx_reader` is the checkpoint itself as an ONNX graph.

A peer that is not installed is an error that names the command which installs it. A further peer is one
function and one entry in `PEERS`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from modeling_rcmstr.onnx_export import export_onnx

# Tesseract reads no image with a side below this.
SMALLEST_SIDE = 3


@dataclass(frozen=True)
class Reader:
    """Something that reads words: a name, and a function from (H, W, 3) uint8 RGB images to texts."""

    name: str
    read: Callable[[list[np.ndarray]], list[str]]


def open_reader(checkpoint: Path, batch_size: int) -> Any:
    """The public pipeline on a checkpoint.

    Raises:
        ValueError: when the folder is no checkpoint.
    """
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{str(checkpoint)!r} is no checkpoint: it holds no config.json.")
    make: Any = transformers.pipeline  # Its overloads name the library's own tasks only.
    return make("text-recognition", model=str(checkpoint), batch_size=batch_size)


def our_reader(checkpoint: Path, batch_size: int) -> Reader:
    """The public pipeline on a checkpoint, as a reader."""
    recogniser = open_reader(checkpoint, batch_size)

    def read(images: list[np.ndarray]) -> list[str]:
        return [answer["text"] for answer in recogniser(images)]

    return Reader("ours", read)


def onnx_reader(checkpoint: Path, batch_size: int) -> Reader:
    """The same pipeline on the checkpoint's ONNX graph, which is exported and checked first.

    Raises:
        ValueError: without the libraries of the extra `export`, and when the graph reads differently.
    """
    original = open_reader(checkpoint, batch_size)
    with tempfile.TemporaryDirectory() as place:
        try:
            folder = export_onnx(original.model, original.processor, Path(place) / "onnx")
        except ImportError as error:
            raise ValueError(str(error)) from error
        recogniser = open_reader(folder, batch_size)

    def read(images: list[np.ndarray]) -> list[str]:
        return [answer["text"] for answer in recogniser(images)]

    return Reader(f"onnxruntime {importlib.metadata.version('onnxruntime')}", read)


def peer_reader(name: str, threads: int, batch_size: int) -> Reader:
    """A peer by its name.

    Args:
        name: one of `PEERS`.
        threads: CPU threads that it may use.
        batch_size: words that it reads at once, where it reads several.

    Raises:
        ValueError: for an unknown name, and for a peer that is not installed, with the command that installs
            it.
    """
    if name not in PEERS:
        raise ValueError(f"no peer is called {name!r}; known: {', '.join(PEERS)}.")
    return PEERS[name](threads, batch_size)


def rapidocr_reader(threads: int, batch_size: int) -> Reader:
    """PP-OCR small from the package `rapidocr`, recognition only; see `peer_reader`."""
    try:
        from rapidocr import RapidOCR
        from rapidocr.ch_ppocr_rec.typings import TextRecInput
    except ImportError as error:
        raise ValueError(
            f"the peer `rapidocr` is not installed ({error}): `pip install rapidocr onnxruntime`, or measure "
            "without it."
        ) from error
    engine: Any = RapidOCR(
        params={
            "Global.log_level": "error",
            "Rec.rec_batch_num": batch_size,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )
    # The recogniser is made at the first call.
    engine(np.full((32, 100, 3), 255, np.uint8), use_det=False, use_cls=False, use_rec=True)

    def read(images: list[np.ndarray]) -> list[str]:
        if not images:
            return []
        flipped = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        return [text or "" for text in engine.text_rec(TextRecInput(img=flipped)).txts]

    return Reader(f"rapidocr {importlib.metadata.version('rapidocr')}", read)


def tesseract_reader(threads: int, batch_size: int) -> Reader:  # noqa: ARG001
    """The program `tesseract`, one process for each thread, each with a list of single words."""
    program = shutil.which("tesseract")
    if program is None:
        raise ValueError(
            "the peer `tesseract` is not installed (no such program on the PATH): `apt-get install "
            "tesseract-ocr`, or measure without it."
        )
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"tesseract v?([\d.]+)", answer.stdout + answer.stderr)

    def read(images: list[np.ndarray]) -> list[str]:
        parts = [images[start::threads] for start in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(lambda part: read_with_tesseract(program, part), parts))
        texts = [""] * len(images)
        for start, part in enumerate(answers):
            texts[start::threads] = part
        return texts

    return Reader(f"tesseract {version[1] if version else ''}".strip(), read)


def read_with_tesseract(program: str, images: list[np.ndarray]) -> list[str]:
    """Have one process of Tesseract read single words.

    Args:
        program: path of the program.
        images: (H, W, 3) uint8, RGB.

    Returns:
        One text per image, "" where nothing was found.

    Raises:
        ValueError: when the program fails, with what it said.
    """
    if not images:
        return []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, image in enumerate(images):
            height, width = image.shape[:2]
            if min(height, width) < SMALLEST_SIDE:
                size = (max(width, SMALLEST_SIDE), max(height, SMALLEST_SIDE))
                image = np.asarray(Image.fromarray(image).resize(size))
            # Uncompressed, so that neither side spends its time on a codec.
            paths.append(Path(folder) / f"{number}.bmp")
            Image.fromarray(image).save(paths[-1])
        names = Path(folder) / "words.txt"
        names.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        run = subprocess.run(
            [program, str(names), "stdout", "--psm", "8", "-l", "eng", "tsv"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
    if run.returncode:
        raise ValueError(f"tesseract stopped with {run.returncode}: {run.stderr.strip()[-300:]}")
    return parse_tesseract_table(run.stdout, len(images))


def parse_tesseract_table(table: str, count: int) -> list[str]:
    """Join the words of every page of Tesseract's TSV output, where page i + 1 is image i.

    Args:
        table: rows of columns with names in the first, among them `page_num` and `text`.
        count: of images.
    """
    words: list[list[str]] = [[] for _ in range(count)]
    for row in csv.DictReader(table.split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE):
        text = (row.get("text") or "").strip()
        # The names are written again before each page.
        if text and (row["page_num"] or "").isdigit():
            words[int(row["page_num"]) - 1].append(text)
    return [" ".join(found) for found in words]


PEERS: dict[str, Callable[[int, int], Reader]] = {
    "rapidocr": rapidocr_reader,
    "tesseract": tesseract_reader,
}
