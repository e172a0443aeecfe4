"""The command that draws codes: what it takes out of a model's outputs, what it writes, what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr import (
    PerSecForPreTraining,
    PerSecForTextRecognition,
    RCMSTRForPreTraining,
    TextRecognitionImageProcessor,
)
from training.draw_codes import count_choices, load_perceivers, main, perceive


@pytest.fixture
def processor() -> TextRecognitionImageProcessor:
    """Words keep their shape."""
    return TextRecognitionImageProcessor(keep_aspect_ratio=True, max_width=384)


@pytest.fixture
def words(word_drawer: Callable[..., Image.Image]) -> list[Image.Image]:
    """Three words of three widths."""
    return [word_drawer("one", (32, 48)), word_drawer("seven", (32, 96)), word_drawer("up", (32, 64))]


@pytest.mark.parametrize("stroke_tap", [None, 3])
def test_words_are_taken_out_of_their_padding(
    tiny_config: Callable[..., Any],
    encoder: str,
    processor: TextRecognitionImageProcessor,
    words: list[Image.Image],
    stroke_tap: int | None,
) -> None:
    if encoder == "vit":
        stroke_tap = None
    model = PerSecForPreTraining(tiny_config("persec", encoder, stroke_tap=stroke_tap)).eval()
    extra = int(encoder == "cnn")
    found = perceive(model, processor, words)
    for seen, image in zip(found, words, strict=True):
        columns = image.width // 4
        assert np.array_equal(seen.pixels, np.asarray(image))
        assert seen.semantic.codes is not None
        assert seen.stroke.codes is not None
        assert seen.semantic.codes.shape == (1, columns + extra, 2)
        assert seen.semantic.left == -2.0 * extra
        rows, more = (4, 1) if stroke_tap == 3 else (8, 0)
        assert seen.stroke.codes.shape == (rows, columns + more, 2)
        assert seen.stroke.left == -2.0 * more
        assert min(seen.stroke.codes.min(), seen.semantic.codes.min()) >= 0
        # Each row of attention sums to 1, whatever the word's place in its batch.
        np.testing.assert_allclose(seen.stroke.attention.sum(-1), 1, atol=1e-5)
        assert seen.stroke.mask.any()
        alone = perceive(model, processor, [image])[0]
        assert alone.stroke.codes is not None
        assert np.array_equal(alone.stroke.codes, seen.stroke.codes)


def test_choices_are_counted_off_the_padding(
    tiny_config: Callable[..., Any], processor: TextRecognitionImageProcessor, words: list[Image.Image]
) -> None:
    model = PerSecForPreTraining(tiny_config("persec", "cnn")).eval()
    found = perceive(model, processor, words)
    counts = count_choices(found, 256)
    assert counts["stroke"].shape == counts["semantic"].shape == (2, 256)
    assert counts["stroke"].sum(1).tolist() == [8 * (12 + 24 + 16)] * 2
    assert counts["semantic"].sum(1).tolist() == [13 + 25 + 17] * 2
    first = found[0].semantic.codes
    assert first is not None
    assert counts["semantic"][1, first[0, 0, 1]] >= 1


@pytest.mark.parametrize("quantize", [True, False])
def test_command_writes_its_pictures(
    tiny_config: Callable[..., Any],
    processor: TextRecognitionImageProcessor,
    words: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quantize: bool,
) -> None:
    torch.manual_seed(0)
    PerSecForPreTraining(tiny_config("persec", "vit", quantize_targets=quantize)).save_pretrained(
        tmp_path / "made"
    )
    processor.save_pretrained(tmp_path / "made")
    (tmp_path / "words").mkdir()
    for number, word in enumerate(words):
        word.save(tmp_path / "words" / f"{number}.png")
    arguments = [
        str(tmp_path / "made"),
        "--words",
        str(tmp_path / "words"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--count", "2"]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == (
        {"codes.png", "shared.png", "usage.png", "windows.png"} if quantize else {"windows.png"}
    )
    assert "windows.png" in capsys.readouterr().out
    for name in written:
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 50
    with pytest.raises(ValueError, match="holds 3 words, --count asks for 4"):
        main([*arguments, "--count", "4"])
    with pytest.raises(ValueError, match="--count must be at least 1"):
        main([*arguments, "--count", "0"])


def test_other_folders_are_refused(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no config.json"):
        load_perceivers(tmp_path)
    PerSecForTextRecognition(tiny_config("persec", "vit")).save_pretrained(tmp_path / "recogniser")
    with pytest.raises(ValueError, match="PerSecForTextRecognition, which has no perceivers"):
        load_perceivers(tmp_path / "recogniser")
    RCMSTRForPreTraining(tiny_config("rcmstr", "vit")).save_pretrained(tmp_path / "rcmstr")
    with pytest.raises(ValueError, match="is a rcmstr model; these pictures are PerSec's"):
        load_perceivers(tmp_path / "rcmstr")
