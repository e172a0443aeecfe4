import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont

from training.render_words import draw_sheet, main, measure_throughput, write_shards
from training.word_fonts import FontFace, load_fonts
from training.word_rendering import RenderingConfig, WordRenderer
from training.word_texts import TextConfig

ENGLISH = TextConfig(languages=(("en", 1.0),))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[FontFace]:
    """The font that Pillow carries: tests need none of the system's."""
    folder = tmp_path_factory.mktemp("fonts")
    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    (folder / "aileron.ttf").write_bytes(font.font_bytes)
    return load_fonts([folder], index_folder=folder / "index")


@pytest.fixture(scope="module")
def renderer(faces: list[FontFace]) -> WordRenderer:
    return WordRenderer(RenderingConfig(seed=3, texts=ENGLISH), faces)


def rows(shards: list[Path]) -> list[dict]:
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def test_shards_hold_the_words_in_order(renderer: WordRenderer, tmp_path: Path) -> None:
    shards = write_shards(renderer.config, renderer.faces, tmp_path / "words", 25, shard_size=10)
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [10, 10, 5]
    for index, row in enumerate(rows(shards)):
        word = renderer.render(index)
        assert row["text"] == word.text
        path = tmp_path / "word.jpg"
        path.write_bytes(row["image"]["bytes"])
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert image.shape == word.image.shape
        assert np.abs(image - word.image).mean() < 12  # JPEG halves the resolution of colour
    assert not list((tmp_path / "words").glob("*.partial"))


def test_complete_shards_are_kept_and_lacking_ones_made(renderer: WordRenderer, tmp_path: Path) -> None:
    config, faces = renderer.config, renderer.faces
    shards = write_shards(config, faces, tmp_path, 20, shard_size=10)
    before = shards[1].stat().st_mtime_ns, shards[0].read_bytes()
    shards[0].unlink()
    (tmp_path / "words-00000.parquet.1.partial").write_bytes(b"cut short")
    again = write_shards(config, faces, tmp_path, 30, shard_size=10)
    assert (again[1].stat().st_mtime_ns, again[0].read_bytes()) == before
    assert len(rows(again)) == 30


def test_a_last_shard_grows_with_the_count(renderer: WordRenderer, tmp_path: Path) -> None:
    config, faces = renderer.config, renderer.faces
    write_shards(config, faces, tmp_path, 4, shard_size=10)
    assert len(rows(write_shards(config, faces, tmp_path, 9, shard_size=10))) == 9


def test_words_of_other_settings_are_not_mixed_in(renderer: WordRenderer, tmp_path: Path) -> None:
    write_shards(renderer.config, renderer.faces, tmp_path, 3)
    with pytest.raises(ValueError, match=r"other settings \(seed differ\)"):
        write_shards(replace(renderer.config, seed=9), renderer.faces, tmp_path, 3)
    assert json.loads((tmp_path / "rendering.json").read_text())["seed"] == 3


@pytest.mark.parametrize("name", ["count", "shard_size", "workers", "quality"])
def test_numbers_out_of_range_are_refused(renderer: WordRenderer, tmp_path: Path, name: str) -> None:
    numbers = {"count": 3, "shard_size": 10, "workers": 1, "quality": 92, name: 0}
    with pytest.raises(ValueError, match=name):
        write_shards(renderer.config, renderer.faces, tmp_path, **numbers)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_shards(renderer: WordRenderer, tmp_path: Path) -> None:
    alone = write_shards(renderer.config, renderer.faces, tmp_path / "1", 8, shard_size=4)
    shared = write_shards(renderer.config, renderer.faces, tmp_path / "2", 8, shard_size=4, workers=2)
    assert [a.read_bytes() for a in alone] == [s.read_bytes() for s in shared]


def test_the_sheet_shows_every_word_over_its_label(renderer: WordRenderer, tmp_path: Path) -> None:
    draw_sheet(renderer, str(tmp_path / "sheet.png"), columns=3, rows=2)
    assert Image.open(tmp_path / "sheet.png").size == (570, 128)


def test_throughput_is_told_in_images_a_second(renderer: WordRenderer) -> None:
    assert measure_throughput(renderer, count=20).startswith("images/s/core: ")


def test_the_command_writes_shards_that_datasets_loads(
    faces: list[FontFace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    font, output = faces[0].path, tmp_path / "words"
    main([str(output), "--fonts", font, "--count", "6", "--seed", "2", "--charset", "0123456789"])
    datasets = pytest.importorskip("datasets")
    files = str(output / "*.parquet")
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))
    data = data.cast_column("image", datasets.Image())
    assert data[0]["image"].height == 32
    assert all(text.isdigit() for text in data["text"])


def test_the_command_wants_something_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--sheet" in capsys.readouterr().err
