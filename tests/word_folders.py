"""What the tests of the training programs share: labelled folders of words, and a saved recogniser."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import class_of

# A model.json whose training takes moments and learns nothing.
SMALLEST_MODEL = {
    "model_type": "rcmstr",
    "image_size": [32, 64],
    "embedding_sizes": [8, 8],
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "head_bilstm_layers": 1,
    "head_hidden_size": 8,
    "max_text_length": 8,
}


def write_words(folder: Path, words: Sequence[tuple[Image.Image, str]]) -> Path:
    """Write words as 0.png, 1.png, … beside a labels.tsv; gives the folder."""
    folder.mkdir(parents=True)
    lines = []
    for number, (image, text) in enumerate(words):
        image.save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{text}\n")
    (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def save_untrained(folder: Path, tiny_config: Callable[..., Any]) -> Path:
    """Save a tiny CTC recogniser that has learned nothing, with its processor; gives the folder."""
    class_of("rcmstr", "ctc")(tiny_config("rcmstr", "cnn", "ctc")).save_pretrained(folder)
    TextRecognitionProcessor(
        image_processor=TextRecognitionImageProcessor(),
        tokenizer=CharacterTokenizer(charset="alphanumeric-36"),
    ).save_pretrained(folder)
    return folder
