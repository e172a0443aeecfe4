"""Render synthetic words into parquet shards with the columns `image` (JPEG bytes, path) and `text`.

    bash training/install_fonts.sh fonts                           # once, on Debian or Ubuntu
    python -m training.render_words words --fonts fonts --count 1000 --seed 1         # a try: seconds
    python -m training.render_words words --fonts fonts --count 5000000 --workers 16  # for training: minutes
    python -m training.render_words --fonts fonts --sheet sheet.png                   # look at some
    python -m training.render_words --fonts fonts --throughput                        # images/s on one core

A shard is written under another name and renamed when it is complete, and complete shards are kept, so a run
broken off is continued by the same command. `words/rendering.json` records the configuration; a folder that
was rendered with another one is refused. The shards load with
`datasets.load_dataset("parquet", data_files="words/*.parquet")`. Words depend on the seed, the options and
the fonts only, not on the number of workers.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.utils import tqdm
from PIL import Image, ImageDraw

from training.word_fonts import FontFace, load_fonts
from training.word_rendering import RENDERING_VERSION, RenderingConfig, WordRenderer
from training.word_texts import TextConfig

SCHEMA = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())]
)
_worker_renderer: WordRenderer | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parse(arguments)
    texts = TextConfig() if options.charset is None else TextConfig(charset=options.charset)
    config = RenderingConfig(
        fonts=tuple(options.fonts) if options.fonts else None,
        seed=options.seed,
        height=options.height,
        max_width=options.max_width,
        texts=texts,
    )
    faces = load_fonts(config.fonts, workers=options.workers, further_characters=texts.further_characters)
    families = len({face.family for face in faces})
    print(f"{len(faces)} fonts of {families} families", file=sys.stderr)
    if options.throughput:
        print(measure_throughput(WordRenderer(config, faces)))
    if options.sheet:
        draw_sheet(WordRenderer(config, faces), options.sheet)
        print(f"wrote {options.sheet}")
    if options.output:
        write_shards(
            config,
            faces,
            Path(options.output),
            options.count,
            options.shard_size,
            options.workers,
            options.quality,
        )


def write_shards(
    config: RenderingConfig,
    faces: Sequence[FontFace],
    folder: Path,
    count: int,
    shard_size: int = 10_000,
    workers: int = 1,
    quality: int = 92,
) -> list[Path]:
    """Render words 0 to `count` - 1 into shards; shards that are there are kept.

    Args:
        config: what to render.
        faces: its fonts.
        folder: made if needed; the shards are `words-00000.parquet`, ….
        count: words in all.
        shard_size: words in each shard but the last.
        workers: processes.
        quality: of the JPEGs, 1 to 100.

    Returns:
        the shards, in order.

    Raises:
        ValueError: if the folder holds words of another configuration, or a number is out of range.
    """
    for name, value in (("count", count), ("shard_size", shard_size), ("workers", workers)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if not 1 <= quality <= 100:
        raise ValueError(f"`quality` must be from 1 to 100, got {quality}.")
    folder.mkdir(parents=True, exist_ok=True)
    _check_record(folder / "rendering.json", _record(config, faces, shard_size, quality))
    jobs, shards = [], []
    for number, start in enumerate(range(0, count, shard_size)):
        stop = min(start + shard_size, count)
        shard = folder / f"words-{number:05d}.parquet"
        shards.append(shard)
        # The last shard of a smaller run is rendered again when more words are asked for.
        if not shard.is_file() or pq.read_metadata(shard).num_rows != stop - start:
            jobs.append((str(shard), start, stop, quality))
    with tqdm(
        total=count, initial=count - sum(j[2] - j[1] for j in jobs), unit="word", disable=None
    ) as progress:
        if workers == 1 or len(jobs) <= 1:
            renderer = WordRenderer(config, faces)
            for job in jobs:
                progress.update(write_shard(renderer, *job))
        else:
            context = get_context("spawn")
            with ProcessPoolExecutor(
                workers, context, initializer=_start_worker, initargs=(config, faces)
            ) as pool:
                for written in pool.map(_write_shard_in_worker, jobs):
                    progress.update(written)
    return shards


def write_shard(renderer: WordRenderer, path: str, start: int, stop: int, quality: int = 92) -> int:
    """Render words `start` to `stop` - 1 into one file, complete or not there at all; return how many."""
    images, texts = [], []
    for index in range(start, stop):
        word = renderer.render(index)
        encoded, data = cv2.imencode(".jpg", word.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert encoded
        images.append({"bytes": data.tobytes(), "path": f"{index:09d}.jpg"})
        texts.append(word.text)
    partial = f"{path}.{os.getpid()}.partial"
    # JPEG bytes do not compress further; row groups of 1,000 let readers seek.
    pq.write_table(pa.table([images, texts], schema=SCHEMA), partial, compression="none", row_group_size=1000)
    os.replace(partial, path)
    return stop - start


def _start_worker(config: RenderingConfig, faces: Sequence[FontFace]) -> None:
    global _worker_renderer
    _worker_renderer = WordRenderer(config, faces)


def _write_shard_in_worker(job: tuple[str, int, int, int]) -> int:
    assert _worker_renderer is not None
    return write_shard(_worker_renderer, *job)


def _record(
    config: RenderingConfig, faces: Sequence[FontFace], shard_size: int, quality: int
) -> dict[str, object]:
    # Fonts are told by name and place in the order, so that the same fonts in another folder count as the
    # same.
    names = hashlib.sha256(
        repr([(face.family, face.style, face.weight) for face in faces]).encode()
    ).hexdigest()
    settings = {key: value for key, value in asdict(config).items() if key != "fonts"}
    record = {
        **settings,
        "version": RENDERING_VERSION,
        "number_of_fonts": len(faces),
        "fonts_sha256": names,
        "shard_size": shard_size,
        "quality": quality,
    }
    return dict(json.loads(json.dumps(record)))


def _check_record(path: Path, record: dict[str, object]) -> None:
    if path.is_file():
        before = json.loads(path.read_text())
        changed = sorted(key for key in before.keys() | record.keys() if before.get(key) != record.get(key))
        if changed:
            raise ValueError(
                f"{path.parent} holds words rendered with other settings ({', '.join(changed)} differ); "
                "give another output folder, or delete it."
            )
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def draw_sheet(renderer: WordRenderer, path: str, columns: int = 8, rows: int = 14) -> None:
    """Write a picture of the first words, each over its label."""
    cell_width, cell_height, text_height = 190, 48, 16
    sheet = Image.new("RGB", (columns * cell_width, rows * (cell_height + text_height)), "white")
    draw = ImageDraw.Draw(sheet)
    for index in range(columns * rows):
        word = renderer.render(index)
        image = Image.fromarray(word.image)
        width = min(cell_width - 4, round(image.width * cell_height / image.height))
        x, y = (index % columns) * cell_width, (index // columns) * (cell_height + text_height)
        sheet.paste(image.resize((width, cell_height), Image.Resampling.BICUBIC), (x, y))
        draw.text((x, y + cell_height), word.text, fill="black")
    sheet.save(path)


def measure_throughput(renderer: WordRenderer, count: int = 3000) -> str:
    """Time rendering on one core, by processor time, so that other work on the machine counts little.

    The first words are slower than later ones, since every font is opened once, so they are timed apart.
    """
    rates = []
    for encode in (False, False, True):
        start = time.process_time()
        for index in range(count):
            image = renderer.render(index).image
            if encode:
                cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        rates.append(count / (time.process_time() - start))
    return (
        f"images/s/core: {rates[1]:.0f} rendered, {rates[2]:.0f} with JPEG encoding, {rates[0]:.0f} while "
        f"fonts are opened ({count} words, {len(renderer.faces)} fonts, height {renderer.config.height})"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.render_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", nargs="?", help="folder for the shards")
    parser.add_argument("--count", type=int, default=10_000, help="words in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument(
        "--fonts", nargs="+", metavar="DIR", help="folders or font files (default: the system's)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument("--shard-size", type=int, default=10_000, help="words a shard (default %(default)s)")
    parser.add_argument("--height", type=int, default=32, help="pixels (default %(default)s)")
    parser.add_argument("--max-width", type=int, default=512, help="pixels (default %(default)s)")
    parser.add_argument(
        "--charset", help="characters that may be written (default: printable ASCII with the space)"
    )
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs (default %(default)s)")
    parser.add_argument("--sheet", metavar="PNG", help="write a contact sheet of the first words")
    parser.add_argument("--throughput", action="store_true", help="measure images a second on one core")
    options = parser.parse_args(arguments)
    if not (options.output or options.sheet or options.throughput):
        parser.error("nothing to do: name an output folder, or give --sheet PNG or --throughput.")
    return options


if __name__ == "__main__":
    main()
