"""What the tests of word sources share: the same words written in every form, by the forms' own libraries."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Words = Sequence[tuple[Image.Image, str | None]]


def encoded(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_lmdb(folder: Path, words: Words) -> Path:
    """In the layout of the deep-text-recognition benchmark; a label None is left out."""
    with (
        lmdb.open(str(folder), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number, (image, text) in enumerate(words, start=1):
            transaction.put(f"image-{number:09d}".encode(), encoded(image))
            if text is not None:
                transaction.put(f"label-{number:09d}".encode(), text.encode())
        transaction.put(b"num-samples", str(len(words)).encode())
    return folder


def word_table(words: Words) -> pa.Table:
    """Columns `image` {"bytes", "path"} and `text`."""
    images = [{"bytes": encoded(image), "path": None} for image, _ in words]
    return pa.table({"image": images, "text": [text for _, text in words]})


def write_parquet(path: Path, words: Words) -> Path:
    """One parquet file."""
    pq.write_table(word_table(words), path)
    return path


def write_arrow(path: Path, words: Words, stream: bool) -> Path:
    """One Arrow file, a stream or with a footer."""
    table = word_table(words)
    opened = pa.ipc.new_stream(path, table.schema) if stream else pa.ipc.new_file(path, table.schema)
    with opened as writer:
        writer.write_table(table)
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """One tar file of named members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def tar_members(words: Words, as_json: bool = False) -> list[tuple[str, bytes]]:
    """The members of a WebDataset shard: `000.png` with `000.txt` or `000.json`."""
    members = []
    for number, (image, text) in enumerate(words):
        members.append((f"{number:03d}.png", encoded(image)))
        if as_json:
            members.append((f"{number:03d}.json", json.dumps({"text": text}).encode()))
        elif text is not None:
            members.append((f"{number:03d}.txt", text.encode()))
    return members
