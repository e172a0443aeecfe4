"""The comparison of two readers: what counts as equal, as a near tie, and as an error."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modeling_rcmstr import onnx_check
from modeling_rcmstr.onnx_check import (
    BATCH_SIZES,
    TOLERANCE,
    OnnxComparison,
    PairOfReadings,
    compare_readers,
    draw_check_words,
)
from tests.exported_recognisers import processor_for, recogniser


class Distorted:
    """The model, with something done to its scores."""

    def __init__(self, model: Any, change: Any) -> None:
        self.model, self.change = model, change
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, **inputs: Any) -> Any:
        self.shapes.append(tuple(inputs["pixel_values"].shape))
        output = self.model(**inputs)
        return SimpleNamespace(logits=self.change(output.logits.clone()), frame_mask=output.frame_mask)


def compare(change: Any, count: int = 40) -> tuple[OnnxComparison, Distorted]:
    model = recogniser("rcmstr", "cnn", "ctc")
    words = list(draw_check_words("abc", count))
    graph = Distorted(model, change)
    names = [str(number) for number in range(count)]
    return compare_readers(model, graph, processor_for("ctc"), words, names), graph


def test_a_model_agrees_with_itself() -> None:
    comparison, graph = compare(lambda logits: logits)
    assert comparison == OnnxComparison(words=40, equal=40)
    assert comparison.agrees
    assert [shape[0] for shape in graph.shapes] == [1, 3, 8, 28]
    assert len({shape[-1] for shape in graph.shapes}) > 1


def test_other_text_is_an_error_that_names_the_words() -> None:
    comparison, _ = compare(lambda logits: logits.roll(1, dims=-1))
    assert not comparison.agrees
    assert len(comparison.different) > 20
    first = comparison.different[0]
    complaint = comparison.complaint()
    assert f"{first.word}: model {first.model!r}, graph {first.graph!r}" in complaint
    assert f"and {len(comparison.different) - 10} more" in complaint


def test_equal_text_from_other_scores_is_an_error() -> None:
    comparison, _ = compare(lambda logits: logits + 0.1)
    assert not comparison.different
    assert not comparison.agrees
    assert comparison.largest_difference == pytest.approx(0.1, rel=1e-3)
    assert "largest difference of a score is 0.1" in comparison.complaint()


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = recogniser("rcmstr", "cnn", "ctc")
    word = next(draw_check_words("abc", 1))
    with torch.no_grad():
        output = model(**processor_for("ctc")(images=[word]))
    broken = torch.full_like(output.logits, float("inf"))
    comparison = OnnxComparison()
    onnx_check._count(comparison, (output.logits - broken).abs(), output.logits)
    assert not comparison.agrees


@pytest.mark.parametrize(("lead", "is_tie"), [(1.0, True), (3.0, False)])
def test_a_near_tie_is_closer_than_twice_the_tolerance(lead: float, is_tie: bool) -> None:
    """Two readers that see one frame with two classes; the graph turns their order."""
    gap = lead * TOLERANCE * 10  # of scores up to 10

    def reader(order: int) -> Any:
        logits = torch.full((1, 1, 37), -10.0)
        logits[0, 0, 5], logits[0, 0, 6] = 10.0, 10.0 - order * gap
        return lambda **_: SimpleNamespace(logits=logits, frame_mask=None)

    comparison = OnnxComparison()
    onnx_check._compare_frames(
        reader(1),
        reader(-1),
        processor_for("ctc"),
        {"pixel_values": torch.zeros(1, 3, 32, 64)},
        ["w"],
        comparison,
    )
    assert (len(comparison.near_ties), len(comparison.different)) == ((1, 0) if is_tie else (0, 1))
    assert [*comparison.near_ties, *comparison.different] == [PairOfReadings("w", "4", "5")]


def generated(ids: list[int], logits: list[list[float]]) -> Any:
    """What greedy search of one word gives, ids after the start token."""
    steps = tuple(torch.tensor([row]) for row in logits)
    return SimpleNamespace(sequences=torch.tensor([[1, *ids]]), logits=steps, scores=steps)


def test_tokens_are_compared_up_to_where_readers_part() -> None:
    """After the first difference the two have read other characters, and scores mean nothing together."""

    def scores(best: int, second: int, gap: float) -> list[float]:
        row = [-8.0] * 39
        row[best], row[second] = 8.0, 8.0 - gap
        return row

    close = TOLERANCE * 4
    expected = generated([7, 9, 2], [scores(7, 8, 5), scores(9, 10, close), scores(2, 3, 5)])
    found = generated(
        [7, 10, 4, 2], [scores(7, 8, 5), scores(10, 9, close), scores(4, 3, 5), scores(2, 3, 5)]
    )
    model, graph = (SimpleNamespace(generate=lambda output=o, **_: output) for o in (expected, found))
    model.config = SimpleNamespace(eos_token_id=2)
    comparison = OnnxComparison()
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 64)}
    onnx_check._compare_tokens(model, graph, processor_for("attention"), inputs, ["w"], comparison)
    assert comparison.near_ties == [PairOfReadings("w", "46", "471")]
    assert comparison.largest_difference == pytest.approx(close, rel=1e-2)


def test_words_are_drawn_alike_from_a_seed_and_in_many_sizes() -> None:
    first, again, other = (list(draw_check_words("abc漢", 60, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(first, again, strict=True))
    assert first[0].size != other[0].size
    assert len({word.size for word in first}) > 50
    ratios = [word.width / word.height for word in first]
    assert min(ratios) < 1
    assert max(ratios) > 6


def test_stretched_words_are_also_compared_by_their_aspect_ratio() -> None:
    config = recogniser("rcmstr", "cnn", "ctc").config
    assert onnx_check._geometry(config, processor_for("ctc", False), 0) == {}
    assert onnx_check._geometry(config, processor_for("ctc", True), 1) == {}
    words = list(draw_check_words("abc", 12))
    batch = processor_for("ctc", False)(
        images=words, **onnx_check._geometry(config, processor_for("ctc", False), 1)
    )
    assert "pixel_mask" in batch
    assert len(BATCH_SIZES) == len(set(BATCH_SIZES))
