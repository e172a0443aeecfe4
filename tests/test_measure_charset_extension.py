import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.word_folders import write_words
from training.measure_charset_extension import (
    main,
    own_words,
    parse_options,
    split_fonts,
    write_own_words,
    write_rehearsal,
)

pytestmark = pytest.mark.usefixtures("restored_process")


@pytest.fixture
def fonts(tmp_path: Path, accented_font: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / "fonts" / name).mkdir(parents=True)
        shutil.copy(accented_font, tmp_path / "fonts" / name / f"{name}.ttf")
    return tmp_path / "fonts"


def test_fonts_of_own_words_and_rehearsal_are_others(fonts: Path) -> None:
    own, rehearsal = split_fonts(fonts)
    assert [Path(place).name for place in own] == ["one"]
    assert [Path(place).name for place in rehearsal] == ["two"]
    with pytest.raises(ValueError, match="at least two folders or files of fonts, .* has 1"):
        split_fonts(fonts / "one")


def test_the_published_rehearsal_is_kept_but_for_its_fonts(tmp_path: Path) -> None:
    written = yaml.safe_load(write_rehearsal(tmp_path / "r.yaml", ["a", "b"]).read_text())
    assert written["fonts"] == ["a", "b"]
    assert written["texts"]["emphasis"] == 0.3


def test_more_own_words_begin_with_the_same_and_each_holds_a_new_character(
    tmp_path: Path, accented_font: Path
) -> None:
    renderers = [own_words([str(accented_font)], "äß€", character, 7) for character in "äß€"]
    counts = write_own_words(tmp_path / "few.parquet", renderers, 2)
    write_own_words(tmp_path / "many.parquet", renderers, 4)
    few, many = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("few", "many"))
    assert many[:6] == few
    assert all(character in row["text"] for row, character in zip(many, "äß€" * 4, strict=True))
    assert all(counts[character] >= 2 for character in "äß€")


def test_wrong_options_are_refused(fonts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the mark"):
        parse_options(["out", "--fonts", str(fonts), "--characters", "\u0331"])
    with pytest.raises(SystemExit):
        parse_options(["out", "--fonts", str(fonts), "--images", "0"])
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_measurement_goes_on_where_it_stopped(
    tmp_path: Path,
    fonts: Path,
    eight_words: list[tuple[Image.Image, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = write_words(tmp_path / "real", eight_words)
    command = [str(tmp_path / "out"), "--fonts", str(fonts), "--real", str(real), "--test-words", "12"]
    command += ["--images", "2", "--steps", "2", "--seeds"]
    assert main([*command, "1"]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content["changed_readings"] == 0
    assert [point["rehearsal_share"] for point in content["points"]] == [0.0, 0.5]
    assert content["before"]["new"]["exact"] == 0.0
    assert content["protocol"]["sets"] == {"old": 12, "new": 12, "real": 8}
    assert np.isclose(content["before"]["old"]["exact"], content["resized"]["old"]["exact"])
    assert main([*command, "1", "2"]) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert again["points"][:2] == content["points"]
    assert [point["seed"] for point in again["points"]] == [1, 1, 2, 2]
    assert sorted(place.name for place in (tmp_path / "out").iterdir()) == [
        "charset_extension.md",
        "rehearsal.yaml",
        "results.json",
    ]
    assert "| 2 | share 0.5 | 2 |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was measured with another steps; choose another folder"):
        main([*command, "1", "--steps", "3"])
