"""Words to train and measure on, from wherever they lie, behind one interface of `{"image", "text"}` rows.

A source is chosen by one string, `kind:place?option=value&…`:

    rendered:                  words drawn by `word_rendering`, endless; place = a YAML file of its settings,
                               or nothing; options are settings (`seed`, …)
    folder:words/              image files beside a label file (`folder_source`); option `labels`
                               names another
    parquet:words.parquet      parquet files: one, a glob or a folder; images as bytes or structs of bytes
    arrow:words.arrow          Arrow files, alike
    lmdb:words/                an LMDB of the deep-text-recognition benchmark
    webdataset:words-*.tar     WebDataset shards: `key.jpg` with `key.txt` or `key.json`
    datasets:owner/words       a repository of the `datasets` library, on the Hub or a folder; options
                               `split`, `name`, `revision`, `data_files`
    stream:owner/words         the same, read as a stream, endless: it starts over

Options `image`, `text` and `group` name columns. Opened without labels (pretraining), every text is empty,
none is asked for, and a folder gives all images below it. How sources are mixed lies in `word_mixture`, what
happens to a row afterwards in `collation`, how an image is read in `modeling_rcmstr.image_reading`. A further
kind is one subclass of `WordSource` and one entry in `SOURCE_KINDS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from training.folder_source import FolderSource
from training.lmdb_source import LMDBSource
from training.source_interface import WordSource, refuse_options
from training.stream_source import StreamSource
from training.table_source import open_arrow, open_datasets, open_parquet
from training.webdataset_source import WebDatasetSource

# What the kind of a source is, where only its path is given.
KINDS_BY_SUFFIX = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".mdb": "lmdb"}


class RenderedSource(WordSource):
    """Words drawn by `training.word_rendering`: row i is a pure function of (settings, i)."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        from training.word_rendering import RenderingConfig, WordRenderer
        from training.word_texts import TextConfig

        self.name = name
        self.size = None
        settings = dict(settings)
        if settings.get("fonts") is not None:
            fonts = settings["fonts"]
            settings["fonts"] = (fonts,) if isinstance(fonts, str) else tuple(fonts)
        try:
            if isinstance(settings.get("texts"), dict):
                settings["texts"] = TextConfig(**settings["texts"])
            self.config = RenderingConfig(**settings)
        except TypeError as error:
            raise ValueError(
                f"source {name!r}: {error}; see `training.word_rendering.RenderingConfig`."
            ) from error
        self.renderer = WordRenderer(self.config)

    def row(self, index: int) -> dict[str, Any]:
        """Render word `index`."""
        word = self.renderer.render(index)
        return {"image": word.image, "text": word.text}

    def text(self, index: int) -> str:
        """The text of word `index` (rendered for it)."""
        return str(self.renderer.render(index).text)


def open_source(name: str, labelled: bool = True) -> WordSource:
    """Open the source that a string names: `kind:place?option=value&…`.

    Args:
        name: see the module.
        labelled: whether every row must have a label; without, the text of every row is empty.

    Raises:
        ValueError: for an unknown kind or option, a missing file, folder or column, or a source without
            words.
    """
    kind, separator, rest = name.partition(":")
    if not separator or kind not in SOURCE_KINDS:
        raise ValueError(
            f"a source must read `kind:place` with kind one of {', '.join(SOURCE_KINDS)}; got {name!r}."
        )
    place, _, query = rest.partition("?")
    source = SOURCE_KINDS[kind](name, place, dict(parse_qsl(query, keep_blank_values=True)), labelled)
    if source.size == 0:
        raise ValueError(f"source {name!r} holds no words; check the path.")
    return source


def name_source(place: str) -> str:
    """The string of a source for what a command line names: itself, or a path with its kind before it."""
    if place.partition(":")[0] in SOURCE_KINDS:
        return place
    path = Path(place)
    if ":" in place and not path.exists():
        return place  # an unknown kind, which is named when it is opened
    if (path / "data.mdb").is_file():
        return f"lmdb:{place}"
    if path.is_dir():
        kinds = {
            suffix: kind for suffix, kind in KINDS_BY_SUFFIX.items() if next(path.glob(f"*{suffix}"), None)
        }
        return f"{next(iter(kinds.values()), 'folder')}:{place}"
    return f"{KINDS_BY_SUFFIX.get(path.suffix, 'folder')}:{place}"


def split_by_group(source: WordSource, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows of a finite source in two so that no group lies on both sides.

    A group's side depends on its name and the seed only, so rows may be added or reordered without moving
    others.

    Returns:
        Row numbers of the larger part and of the held-out part (about `fraction` of the groups), each rising.
    """
    if source.size is None:
        raise ValueError(
            f"source {source.name!r} has no end and cannot be split; give its held-out words another seed."
        )
    held_out = np.fromiter(
        (_share(source.group(i), seed) < fraction for i in range(source.size)), bool, source.size
    )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _share(group: str, seed: int) -> float:
    """A number in 0..1 that depends on group and seed only."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _open_rendered(name: str, place: str, options: dict[str, str], labelled: bool) -> WordSource:  # noqa: ARG001
    from training.arguments import read_settings
    from training.setting_names import parse_value

    settings = read_settings(place) if place else {}
    settings.update({key: parse_value(key, value) for key, value in options.items()})
    return RenderedSource(name, settings)


def _open_lmdb(name: str, place: str, options: dict[str, str], labelled: bool) -> WordSource:
    refuse_options(name, options, ())
    return LMDBSource(name, place, labelled)


SOURCE_KINDS: dict[str, Callable[[str, str, dict[str, str], bool], WordSource]] = {
    "rendered": _open_rendered,
    "folder": FolderSource,
    "parquet": open_parquet,
    "arrow": open_arrow,
    "lmdb": _open_lmdb,
    "webdataset": WebDatasetSource,
    "datasets": open_datasets,
    "stream": StreamSource,
}
