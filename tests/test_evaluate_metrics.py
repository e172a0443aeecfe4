"""The metrics for the `evaluate` library, loaded from their folders, offline: they equal our own."""

import doctest
import math
import random
from pathlib import Path
from typing import Any

import evaluate
import pytest

from training.benchmarks import normalise_alphanumeric
from training.calibration import calibration_bins, expected_calibration_error
from training.metrics import score_words

FOLDER = Path(__file__).resolve().parent.parent / "training" / "evaluate_metrics"
NAMES = sorted(path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").is_file())


def load(name: str) -> Any:
    return evaluate.load(str(FOLDER / name))


def drawn(count: int) -> tuple[list[str], list[str], list[float]]:
    """Predictions close to labels, some of which are punctuation only, and confidences."""
    chooser = random.Random(5)
    labels = ["".join(chooser.choices("aAbB1-'", k=chooser.randrange(6))) for _ in range(count)]
    predictions = [label if chooser.random() < 0.4 else label[1:] + "b" for label in labels]
    return predictions, labels, [chooser.random() for _ in labels]


def test_every_metric_is_tested_here() -> None:
    assert NAMES == ["character_error_rate", "expected_calibration_error", "one_minus_ned", "word_accuracy"]


@pytest.mark.parametrize("name", ["word_accuracy", "one_minus_ned", "character_error_rate"])
def test_a_metric_equals_what_the_benchmark_states(name: str) -> None:
    predictions, labels, _ = drawn(80)
    scores = score_words(predictions, labels)
    measured = load(name).compute(predictions=predictions, references=labels)
    assert measured[name] == pytest.approx(getattr(scores, name))
    if name == "character_error_rate":
        assert measured["characters"] == sum(map(len, labels))
    else:
        assert measured["words"] == scores.words < len(labels)


def test_word_accuracy_as_the_texts_are_is_the_cased_one() -> None:
    predictions, labels, _ = drawn(80)
    measured = load("word_accuracy").compute(predictions=predictions, references=labels, normalisation="none")
    assert measured == {"word_accuracy": score_words(predictions, labels).cased_accuracy, "words": 80}


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_equals_that_of_the_report(bins: int) -> None:
    predictions, labels, confidences = drawn(80)
    kept = [
        (confidence, normalise_alphanumeric(prediction) == normalise_alphanumeric(label))
        for prediction, label, confidence in zip(predictions, labels, confidences, strict=True)
        if normalise_alphanumeric(label)
    ]
    expected = expected_calibration_error(calibration_bins([c for c, _ in kept], [r for _, r in kept], bins))
    measured = load("expected_calibration_error").compute(
        predictions=predictions, references=labels, confidences=confidences, bins=bins
    )
    assert measured["expected_calibration_error"] == pytest.approx(expected)
    assert measured["words"] == len(kept)


@pytest.mark.parametrize("name", NAMES)
def test_batches_give_what_one_call_gives(name: str) -> None:
    predictions, labels, confidences = drawn(10)
    columns: dict[str, list[Any]] = {"predictions": predictions, "references": labels}
    if name == "expected_calibration_error":
        columns["confidences"] = confidences
    metric = load(name)
    for part in (slice(0, 4), slice(4, 10)):
        metric.add_batch(**{column: values[part] for column, values in columns.items()})
    assert metric.compute() == load(name).compute(**columns)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_metric_is_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent.parent)
    metric = load(name)
    example = doctest.DocTestParser().get_doctest(
        metric.info.inputs_description, {"evaluate": evaluate}, name, None, None
    )
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize("name", NAMES)
def test_without_words_a_metric_is_not_a_number(name: str) -> None:
    more = {"confidences": [0.5]} if name == "expected_calibration_error" else {}
    label = "" if name == "character_error_rate" else "..."
    assert math.isnan(load(name).compute(predictions=["a"], references=[label], **more)[name])


@pytest.mark.parametrize("name", ["word_accuracy", "one_minus_ned", "expected_calibration_error"])
def test_an_unknown_normalisation_is_refused_with_the_known_ones(name: str) -> None:
    more = {"confidences": [0.5]} if name == "expected_calibration_error" else {}
    with pytest.raises(ValueError, match="must be one of alphanumeric-36, none, got 'cased'"):
        load(name).compute(predictions=["a"], references=["a"], normalisation="cased", **more)


def test_confidences_are_probabilities_and_bins_are_some() -> None:
    metric = load("expected_calibration_error")
    with pytest.raises(ValueError, match="give probabilities"):
        metric.compute(predictions=["a"], references=["a"], confidences=[2.0])
    with pytest.raises(ValueError, match="at least 1"):
        metric.compute(predictions=["a"], references=["a"], confidences=[0.5], bins=0)
