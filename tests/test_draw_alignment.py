"""Where a recogniser looks: rows and frames of both heads, against what the model and the pipeline say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_rcmstr import (
    CharacterTokenizer,
    TextRecognitionImageProcessor,
    TextRecognitionProcessor,
    default_checkpoint,
)
from tests.recognisers import COMBINATIONS, class_of
from training import draw_alignment as module
from training.draw_alignment import BLANK, END, draw_alignment, read_alignment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def bundled() -> Any:
    """The pipeline with the bundled recogniser."""
    return pipeline("text-recognition", model=str(default_checkpoint()))  # type: ignore[call-overload]


def tiny_reader(config_for: Callable[..., Any], family: str, encoder: str, decoder: str, **image: Any) -> Any:
    """A pipeline with a new, untrained recogniser."""
    tokenizer = CharacterTokenizer(charset="alphanumeric-36", for_attention=decoder == "attention")
    processor = TextRecognitionProcessor(TextRecognitionImageProcessor(**image), tokenizer)
    torch.manual_seed(1)
    model = class_of(family, decoder)(config_for(family, encoder, decoder, vocab_size=len(tokenizer))).eval()
    return pipeline("text-recognition", model=model, processor=processor)  # type: ignore[call-overload]


def test_best_path_of_the_map_is_the_text(bundled: Any) -> None:
    """Darkest row of each frame, repeats merged, blanks dropped."""
    for image, text in (("word_06.jpg", "Platform"), ("word_08.jpg", "MARKET")):
        alignment = read_alignment(bundled, str(EXAMPLES / image))
        best = [alignment.rows[row] for row in alignment.weights.argmax(0)]
        merged = [row for row, before in zip(best, [BLANK, *best[:-1]], strict=True) if row != before]
        assert "".join(row for row in merged if row != BLANK) == alignment.text == text
        assert alignment.rows[-1] == BLANK
        assert not alignment.is_attention


def test_map_is_of_probabilities_over_the_whole_width(bundled: Any) -> None:
    alignment = read_alignment(bundled, str(EXAMPLES / "word_10.jpg"))
    assert alignment.weights.min() >= 0
    assert alignment.weights.sum(0).max() <= 1 + 1e-5
    assert alignment.edges[0] == 0
    assert alignment.edges[-1] == 1
    assert (np.diff(alignment.edges) > 0).all()
    assert len(alignment.edges) == alignment.weights.shape[1] + 1
    # The score is the product of the highest probabilities of the characters' frames.
    peaks = [character["score"] for character in alignment.characters]
    assert np.isclose(np.prod(peaks), alignment.score)
    unread = [row for row in alignment.rows[:-1] if row not in alignment.text]
    assert 0 < len(unread) <= module.OTHERS


@pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
def test_every_head_and_encoder_has_a_map(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str
) -> None:
    reader = tiny_reader(tiny_config, family, encoder, decoder)
    alignment = read_alignment(reader, Image.new("RGB", (90, 30), "white"))
    config = reader.model.config
    assert alignment.weights.shape == (
        len(alignment.rows),
        128 // config.patch_size + config.has_centered_frames,
    )
    if decoder == "attention":
        assert alignment.is_attention
        assert alignment.rows == [*alignment.text, END]
        assert np.allclose(alignment.weights.sum(1), 1, atol=1e-4)
    figure = draw_alignment(alignment)
    assert len(figure.axes) == 3


def test_attention_is_that_of_the_reading(tiny_config: Callable[..., Any]) -> None:
    """The map comes from a pass over the text that was read; `generate()` attends alike, step by step."""
    reader = tiny_reader(tiny_config, "rcmstr", "cnn", "attention")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 128, 3), dtype=np.uint8))
    alignment = read_alignment(reader, image)
    inputs = reader.processor(images=[image])
    generated = reader.model.generate(
        **inputs, return_dict_in_generate=True, output_scores=True, output_attentions=True
    )
    steps = [step[-1].mean(1)[0, -1] for step in generated.cross_attentions]
    expected = torch.stack(steps[: len(alignment.rows)]).numpy()
    assert len(alignment.text) > 0
    assert np.allclose(alignment.weights[: len(expected)], expected, atol=1e-5)


def test_map_is_as_wide_as_the_word(tiny_config: Callable[..., Any]) -> None:
    settings = {"keep_aspect_ratio": True, "min_width": 64, "width_multiple": 16, "max_width": 256}
    for decoder in ("ctc", "attention"):
        reader = tiny_reader(tiny_config, "rcmstr", "cnn", decoder, **settings)
        widths = [
            read_alignment(reader, Image.new("RGB", (width, 32), "white")).weights.shape[1]
            for width in (64, 128)
        ]
        assert widths == [17, 33]


def test_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "alignment.png"
    assert module.main(["default", str(EXAMPLES / "word_01.jpg"), "--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith("OPEN (9")
    assert Image.open(output).width > 600
    with pytest.raises(ValueError, match="there is no image"):
        module.main(["default", "nowhere.jpg"])
