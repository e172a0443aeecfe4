"""Whole curves of tiny recognisers: every point once, the same test words, finished points kept."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.word_folders import SMALLEST_MODEL, write_words
from training import label_efficiency
from training.label_efficiency import main
from training.point_training import PointRun
from training.run_finetuning import main as run_finetuning

pytestmark = pytest.mark.usefixtures("restored_process")

Words = list[tuple[Image.Image, str]]


class HereAndNow:
    """Trains points one after another in this process; keeps their names."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.stop_before: str | None = None

    def __call__(
        self, runs: Sequence[PointRun], total: int, jobs: int, finish: Callable[[PointRun], str]
    ) -> list[tuple[PointRun, str]]:
        assert len(runs) <= total
        assert jobs == 1
        failed = []
        for run in runs:
            if run.name == self.stop_before:
                raise KeyboardInterrupt
            run.place.mkdir(parents=True, exist_ok=True)
            (run.place / "settings.yaml").write_text(yaml.safe_dump(run.settings))
            self.trained.append(run.name)
            try:
                run_finetuning([str(run.place / "settings.yaml"), "resume=true"])
                finish(run)
            except ValueError as error:
                failed.append((run, str(error)))
        return failed


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> HereAndNow:
    here = HereAndNow()
    monkeypatch.setattr(label_efficiency, "train_points", here)
    return here


@pytest.fixture
def curve(tmp_path: Path, eight_words: Words) -> Callable[..., int]:
    """Run a curve of one starting point; `curve(key=value, …)` changes settings."""
    words = write_words(tmp_path / "words", eight_words * 3)
    (tmp_path / "model.json").write_text(json.dumps(SMALLEST_MODEL), encoding="utf-8")
    settings = {
        "output_dir": str(tmp_path / "curve"),
        "source": f"folder:{words}",
        "starting_points": {"scratch": str(tmp_path / "model.json")},
        "label_counts": [8, 3],
        "seeds": [0, 1],
        "held_out_fraction": 0.3,
        "charset": "alphanumeric-36",
        "max_steps": 2,
        "batch_size": 4,
        "bucket_batches": 1,
    }
    (tmp_path / "curve.yaml").write_text(yaml.safe_dump(settings))

    def run(**changes: Any) -> int:
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        return main([str(tmp_path / "curve.yaml"), *overrides])

    return run


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "curve" / "results").iterdir())}


def test_a_curve_is_measured_point_by_point_and_goes_on_after_a_stop(
    curve: Callable[..., int], trainer: HereAndNow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = [f"scratch, {count} labels, seed {seed}" for seed in (0, 1) for count in (3, 8)]
    trainer.stop_before = order[1]
    assert curve() == 130
    assert "1 of 4 points are finished and kept" in capsys.readouterr().err
    assert (tmp_path / "curve/label_efficiency.png").is_file(), "after every point"
    first = results(tmp_path)
    trainer.stop_before = None
    assert curve() == 0
    assert trainer.trained == order, "seed by seed, few labels first, none twice"
    assert first.items() <= results(tmp_path).items()
    told = capsys.readouterr().out
    assert "points: 4 = 1 starting points x 2 numbers of labels x 2 seeds" in told
    assert "finished already: 1" in told
    assert "| 3 | " in told

    content = json.loads((tmp_path / "curve/results.json").read_text())
    points = content["results"]
    assert {(one["labels"], one["trained_on"], one["updates"]) for one in points} == {(3, 3, 2), (8, 8, 2)}
    assert {one["test_words"] for one in points} == {content["words"]["test"]}
    assert content["words"]["train"] + content["words"]["test"] == content["words"]["rows"] == 24
    place = tmp_path / "curve/points/scratch/3-labels-seed-0"
    assert {path.name for path in place.iterdir()} == {
        "settings.yaml",
        "log.jsonl",
        "training_record.json",
    }, "weights are not kept"
    record = json.loads((place / "training_record.json").read_text())
    assert record["final"]["word_accuracy"] == next(
        one["word_accuracy"] for one in points if (one["labels"], one["seed"]) == (3, 0)
    )

    # More of what there is may be asked for; other training is another curve.
    assert curve(seeds=[0, 1, 2], label_counts=[3]) == 0
    assert trainer.trained[4:] == ["scratch, 3 labels, seed 2"]
    with pytest.raises(ValueError, match=r"`max_steps` was 2, now 3.*choose another `output_dir`"):
        curve(max_steps=3)
    with pytest.raises(ValueError, match=r"`held_out_fraction` was 0.3, now 0.4"):
        curve(held_out_fraction=0.4)
    (tmp_path / "model.json").write_text(json.dumps({**SMALLEST_MODEL, "head_hidden_size": 16}))
    with pytest.raises(ValueError, match="starting point 'scratch'"):
        curve()


def test_all_starting_points_learn_from_and_read_the_same_words(
    curve: Callable[..., int], trainer: HereAndNow, tmp_path: Path
) -> None:
    """Only the model, and what is its own, differ in the settings of their fine-tuning."""
    model = str(tmp_path / "model.json")
    frozen = {"model": model, "freeze_encoder": True}
    assert curve(starting_points={"scratch": model, "frozen": frozen}, seeds=[4], label_counts=[5]) == 0
    one, other = (
        yaml.safe_load((tmp_path / f"curve/points/{name}/5-labels-seed-4/settings.yaml").read_text())
        for name in ("scratch", "frozen")
    )
    assert {key for key in one if one[key] != other[key]} == {"output_dir", "freeze_encoder"}
    assert one["split_seed"] == 0
    assert one["seed"] == 4
    table = (tmp_path / "curve/label_efficiency.md").read_text()
    assert 'Gain over "scratch"' in table


def test_a_point_that_fails_does_not_lose_the_others(
    curve: Callable[..., int], trainer: HereAndNow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "model.json")
    refused = {"model": model, "processor": {"colour": "red"}}
    starts = {"scratch": model, "refused": refused}
    assert curve(starting_points=starts, seeds=[0], label_counts=[4]) == 1
    told = capsys.readouterr()
    assert (
        "failed: refused, 4 labels, seed 0: `processor`: the image processor has no settings ['colour']"
        in told.err
    )
    assert "1 points failed; the same command tries them again" in told.err
    assert "| 4 | " in told.out
    assert list(results(tmp_path)) == ["scratch-4-labels-seed-0.json"]
    assert curve(seeds=[0], label_counts=[4]) == 0, "what was finished is a curve"


def test_other_words_may_be_the_test(
    curve: Callable[..., int], trainer: HereAndNow, tmp_path: Path, eight_words: Words
) -> None:
    test = f"folder:{write_words(tmp_path / 'test', eight_words[:5])}"
    assert curve(test_source=test, seeds=[0], label_counts=[24]) == 0
    content = json.loads((tmp_path / "curve/results.json").read_text())
    assert content["words"]["test_of"] == f"of `{test}`"
    assert [(one["trained_on"], one["test_words"]) for one in content["results"]] == [(24, 5)]


def test_without_counts_the_shares_are_those_of_the_papers_and_two_more(curve: Callable[..., int]) -> None:
    counts = label_efficiency.choose_counts
    arguments: Any = type("Arguments", (), {"curve": type("Curve", (), {"label_counts": None})})
    assert counts(arguments, 2000) == [20, 100, 200, 500, 1000, 2000]
    assert counts(arguments, 3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"label_counts": [5, 100]},
            r"asks for 100 labelled words, and 'folder:.*' has \d+ to train on.*label more",
        ),
        ({"source": "rendered:"}, "has no end.*for example folder:my_words"),
        (
            {"starting_points": {"a": "no/such/folder"}},
            "'a' names neither a model.json nor a checkpoint folder",
        ),
        ({"starting_points": {"a": {"model": "MODEL", "model_settings": {"depth": 3}}}}, "depth"),
        ({"charset": "xyzXYZ"}, "none is left to train on; see `charset`"),
        ({"held_out_fraction": 0.001}, "none is left to test on; raise `held_out_fraction`"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    curve: Callable[..., int], trainer: HereAndNow, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    text = json.dumps(change).replace("MODEL", str(tmp_path / "model.json"))
    with pytest.raises(ValueError, match=match):
        curve(**json.loads(text))
    assert trainer.trained == []


@pytest.mark.slow
def test_the_command_measures_a_curve_in_processes(
    curve: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert curve(jobs=2, seeds=[0], label_counts=[2, 6]) == 0
    assert len(results(tmp_path)) == 2
    told = capsys.readouterr()
    assert f"plot: {tmp_path / 'curve/label_efficiency.png'}" in told.out
    assert "scratch, 2 labels, seed 0: " in told.err
