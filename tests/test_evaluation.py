from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr import CharacterTokenizer, TextRecognitionImageProcessor, TextRecognitionProcessor
from tests.recognisers import class_of
from training.collation import BatchNormaliser, WordResizer
from training.evaluation import (
    Example,
    choose_rows,
    evaluate_sets,
    prediction_table,
    prepare_evaluation_set,
    read_batch,
)

IMAGE_PROCESSOR = TextRecognitionImageProcessor(keep_aspect_ratio=True, width_multiple=16, min_width=32)
CPU = torch.device("cpu")


class ListedSource:
    """Rows from a list."""

    name = "listed"

    def __init__(self, rows: list[tuple[Any, str]]) -> None:
        self.rows, self.size = rows, len(rows)

    def row(self, index: int) -> dict[str, Any]:
        image, text = self.rows[index]
        return {"image": image, "text": text}


@pytest.fixture
def words(word_drawer: Callable[..., Image.Image]) -> list[tuple[Any, str]]:
    """Nine words of three widths, and one that cannot be read."""
    rows: list[tuple[Any, str]] = [
        (word_drawer(f"Word{i}", (32, 64 + 32 * (i % 3))), f"Word{i}") for i in range(9)
    ]
    return [*rows[:4], (b"broken", "lost"), *rows[4:]]


def processor_for(decoder: str) -> TextRecognitionProcessor:
    tokenizer = CharacterTokenizer(charset="alphanumeric-36", for_attention=decoder == "attention")
    return TextRecognitionProcessor(image_processor=IMAGE_PROCESSOR, tokenizer=tokenizer)


def evaluation_set(words: list[tuple[Any, str]], batch_size: int = 4) -> Any:
    source: Any = ListedSource(words)
    return prepare_evaluation_set(
        "listed", source, range(len(words)), WordResizer(IMAGE_PROCESSOR), batch_size
    )


class EchoProcessor:
    """Answers with the label of each image, found by its pixels; some of them wrongly."""

    def __init__(self, words: list[tuple[Any, str]], wrong: tuple[str, ...] = ()) -> None:
        self.known = {
            IMAGE_PROCESSOR(image, return_tensors="np")["pixel_values"].tobytes(): text
            for image, text in words
            if isinstance(image, Image.Image)
        }
        self.wrong = wrong

    def post_process_text_recognition(self, outputs: Any, pixel_mask: Any = None) -> list[dict[str, Any]]:
        answers = []
        for row, pixels in enumerate(outputs.pixel_values):
            width = pixels.shape[2] if pixel_mask is None else int(pixel_mask[row, 0].sum())
            text = self.known[pixels[None, :, :, :width].contiguous().numpy().tobytes()]
            answers.append({"text": "?" if text in self.wrong else text, "score": 0.5})
        return answers


class EchoModel:
    """Hands its pixels through."""

    training = True
    config = SimpleNamespace(is_encoder_decoder=False)

    def __call__(self, pixel_values: torch.Tensor, pixel_mask: Any = None) -> SimpleNamespace:
        assert not self.training
        return SimpleNamespace(pixel_values=pixel_values)

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode


def test_every_word_is_compared_with_its_own_label(words: list[tuple[Any, str]]) -> None:
    """Words are sorted into batches by width; labels must come along."""
    normalise = BatchNormaliser(IMAGE_PROCESSOR, channels_last=False)
    model = EchoModel()
    scores, examples = evaluate_sets(model, EchoProcessor(words), [evaluation_set(words)], normalise, CPU)
    # Nine of ten are read; the tenth has no readable image and counts as wrong.
    assert scores["listed_word_accuracy"] == scores["word_accuracy"] == 0.9
    assert scores["listed_words"] == 10
    assert all(example.label == example.prediction for example in examples)
    assert sorted(example.label for example in examples) == sorted(
        text for _, text in words if text != "lost"
    )
    assert model.training


def test_the_mean_over_sets_is_unweighted(words: list[tuple[Any, str]]) -> None:
    normalise = BatchNormaliser(IMAGE_PROCESSOR, channels_last=False)
    readable = [row for row in words if row[1] != "lost"]
    many, one = evaluation_set(readable), evaluation_set(readable[:1])
    sets = [many, type(one)("single", one.chunk, one.texts, one.unreadable)]
    scores, _ = evaluate_sets(EchoModel(), EchoProcessor(words, wrong=("Word0",)), sets, normalise, CPU)
    assert scores["listed_word_accuracy"] == pytest.approx(8 / 9)
    assert scores["single_word_accuracy"] == 0
    assert scores["word_accuracy"] == pytest.approx(4 / 9)


def test_a_set_without_a_readable_word_scores_nothing() -> None:
    normalise = BatchNormaliser(IMAGE_PROCESSOR, channels_last=False)
    broken = evaluation_set([(b"broken", "lost"), (b"", "gone")])
    scores, examples = evaluate_sets(EchoModel(), EchoProcessor([]), [broken], normalise, CPU)
    assert scores["word_accuracy"] == 0
    assert scores["listed_cer"] == 1
    assert examples == []


def test_either_head_reads_like_its_processor(
    tiny_config: Callable[..., Any], decoder: str, words: list[tuple[Any, str]]
) -> None:
    torch.manual_seed(0)
    model = class_of("rcmstr", decoder)(tiny_config("rcmstr", "cnn", decoder)).eval()
    processor = processor_for(decoder)
    images = [image for image, text in words if text != "lost"][:3]
    inputs = processor(images=images)
    answers = read_batch(model, processor, dict(inputs))
    for image, answer in zip(images, answers, strict=True):
        (alone,) = read_batch(model, processor, dict(processor(images=image)))
        assert answer["text"] == alone["text"]
        assert answer["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_chosen_rows_are_few_fixed_and_rising() -> None:
    rows = np.arange(100, 1100)
    chosen = choose_rows(rows, 50, seed=0)
    assert len(set(chosen)) == 50
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose_rows(rows, 50, seed=0))
    assert not np.array_equal(chosen, choose_rows(rows, 50, seed=1))
    assert np.array_equal(choose_rows(rows, 1000, seed=0), rows)


def test_the_table_marks_errors_and_aligns() -> None:
    table = prediction_table([Example("label1", "label1", 0.987), Example("a", "wrong text", 0.1)], 8)
    header, right, wrong = table.splitlines()
    assert right.split() == ["label1", "label1", "0.987"]
    assert wrong.split() == ["a", "wrong", "text", "0.100", "x"]
    assert header.index("prediction") == right.index("label1", 3) == wrong.index("wrong")
    assert prediction_table([], 8) == prediction_table([Example("a", "b", 1.0)], 0) == ""
