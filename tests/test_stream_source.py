"""Words of streams, labelled and not: every row by its number, without an end."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from tests.word_files import write_parquet
from training.pretraining_batches import ViewChunkMaker
from training.stream_source import StreamSource
from training.word_mixture import MixturePart, Share, WordMixture
from training.word_sources import open_source


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Four words whose red numbers them, in two files."""
    words = [(Image.new("RGB", (8, 4), (i, 0, 0)), f"word {i}") for i in range(4)]
    write_parquet(tmp_path / "train-1.parquet", words[:3])
    write_parquet(tmp_path / "train-2.parquet", words[3:])
    return tmp_path


def numbers(source: Any, rows: list[int]) -> list[int]:
    return [np.asarray(read_image(source.row(index)["image"]))[0, 0, 0].item() for index in rows]


def test_a_stream_goes_on_forever_from_any_row(numbered: Path) -> None:
    source = open_source(f"stream:{numbered}", labelled=False)
    assert source.size is None
    assert numbers(source, [0, 1, 3, 4, 6, 9]) == [0, 1, 3, 0, 2, 1]
    assert numbers(source, [2]) == [2], "going back opens it anew"
    assert isinstance(source, StreamSource)
    assert source.length == 4
    copy = pickle.loads(pickle.dumps(source))
    assert numbers(copy, [7]) == [3]
    resumed = open_source(f"stream:{numbered}?split=train", labelled=False)
    assert numbers(resumed, [10, 11, 12]) == [2, 3, 0], "a resumed run starts behind the end"


def test_a_labelled_stream_gives_image_and_label_of_one_row(numbered: Path) -> None:
    source = open_source(f"stream:{numbered}")
    assert [source.row(index)["text"] for index in (1, 3, 4)] == ["word 1", "word 3", "word 0"]
    assert source.text(6) == "word 2"
    assert numbers(source, [6]) == [2]
    with pytest.raises(ValueError, match="no text column 'said'"):
        open_source(f"stream:{numbered}?text=said").row(0)


def test_text_and_image_of_a_row_are_read_at_once(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = open_source(f"stream:{numbered}")
    opened: list[int] = []
    stream = source._stream

    def open_stream(start: int) -> Any:
        opened.append(start)
        return stream(start)

    monkeypatch.setattr(source, "_stream", open_stream)
    for index in range(4):
        assert source.text(index) == source.row(index)["text"] == f"word {index}"
    assert opened == [0]


def test_processes_share_a_stream_without_reading_a_word_twice(numbered: Path) -> None:
    """Two processes of one word each read what one process of two words reads, also after a stop."""

    def rows(rank: int, world_size: int, batch_size: int, batches: range) -> list[str]:
        source = open_source(f"stream:{numbered}")
        mixture = WordMixture([MixturePart(source, 1.0, None)], seed=0)
        share = Share(rank, world_size)
        maker = ViewChunkMaker(mixture, lambda image: image, batch_size, 1, False, 0, share)  # type: ignore[arg-type]
        return [source.row(draw.row)["text"] for batch in batches for draw in maker.own_draws(batch)]

    whole = rows(0, 1, 2, range(5))
    assert whole == [f"word {i % 4}" for i in range(10)]
    assert rows(0, 2, 1, range(5)) == whole[0::2]
    assert rows(1, 2, 1, range(2)) + rows(1, 2, 1, range(2, 5)) == whole[1::2]


def test_an_empty_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = StreamSource("stream:x", "x", {}, labelled=False)
    monkeypatch.setattr(source, "_stream", lambda start: [])
    for row in (0, 5):
        with pytest.raises(ValueError, match="the stream has no rows"):
            source.row(row)


def test_what_cannot_be_streamed_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown options"):
        open_source(f"stream:{tmp_path}?splitt=x")
    with pytest.raises(ValueError, match="cannot stream .* check the name, the split and the network"):
        open_source(f"stream:{tmp_path}/none").row(0)
