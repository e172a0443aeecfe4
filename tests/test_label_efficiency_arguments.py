"""Settings of a label curve: what is wrong is said before anything runs."""

from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from tests.programs import ROOT
from training.arguments import build_grouped_arguments, read_settings
from training.label_efficiency_arguments import LabelEfficiencyArguments

MINIMAL: dict[str, Any] = {
    "output_dir": "curve",
    "source": "folder:words",
    "starting_points": {"scratch": "model.json"},
    "max_steps": 10,
}


def build(**changes: Any) -> LabelEfficiencyArguments:
    return build_grouped_arguments({**MINIMAL, **changes}, LabelEfficiencyArguments)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"starting_points": {}}, r"at least one, for example \{scratch: model.json"),
        ({"starting_points": {"a": {"modl": "m"}}}, r"'a' has unknown fields \['modl'\]; known: "),
        (
            {"starting_points": {"a": {"model": "m", "max_steps": 5}}},
            "Updates and words are settings of the whole",
        ),
        ({"starting_points": {"a": {"label": "A"}}}, "'a' must name its `model`"),
        ({"starting_points": {"a/b": "m"}}, "usable as a folder's name"),
        ({"starting_points": {"..": "m"}}, "usable as a folder's name"),
        ({"baseline": "b"}, "`baseline` must be one of scratch; got 'b'"),
        ({"label_counts": []}, "`label_counts` must be different whole numbers of at least 1"),
        ({"label_counts": [0, 5]}, r"of at least 1, got \[0, 5\]"),
        ({"seeds": [1, 1]}, r"`seeds` must be different whole numbers of at least 0, got \[1, 1\]"),
        ({"held_out_fraction": 0}, "must lie between 0 and 1, got 0: .*or name a `test_source`"),
        ({"test_source": "folder:words"}, "are the same words; leave `test_source` out"),
        ({"out_of_charset": "skip"}, "one of drop_word, drop_characters, error"),
        ({"augmentation_strength": 2}, "0 to 1, got 2"),
        ({"test_words": 0}, "`test_words` must be at least 1"),
        ({"max_steps": None, "schedule_by": "time", "max_minutes": 5}, "a curve counts updates"),
        ({"max_minutes": 5}, "leave out `max_minutes`"),
        ({"jobs": 0}, "`jobs` must be at least 1"),
        ({"save_minutes": 0}, "`save_minutes` must be positive, got 0"),
        ({"label_count": [5]}, "'label_count' .did you mean 'label_counts'"),
    ],
)
def test_wrong_settings_are_refused_with_the_rule(change: dict[str, Any], match: str) -> None:
    assert build().seeds == [0, 1, 2]
    with pytest.raises(ValueError, match=match):
        build(**change)


def test_values_of_one_starting_point_are_checked_as_those_of_all_are() -> None:
    with pytest.raises((ValueError, StrictDataclassError), match="`learning_rate` must be positive, got -1"):
        build(starting_points={"a": {"model": "m", "learning_rate": -1}})


def test_a_test_source_needs_nothing_held_out() -> None:
    assert build(test_source="folder:test", held_out_fraction=0).words.held_out_fraction == 0


def test_a_starting_point_differs_from_the_others_in_its_own_settings_only() -> None:
    frozen = {"model": "runs/final", "freeze_encoder": True, "learning_rate": 0.01, "label": "frozen"}
    arguments = build(starting_points={"one": "runs/final", "two": frozen}, learning_rate=0.002)
    assert arguments.point("one") == {"label": "one", "model": "runs/final"}
    assert arguments.point("two")["label"] == "frozen"
    one, two = (arguments.point_optimisation(name) for name in ("one", "two"))
    assert {key for key in one if one[key] != two[key]} == {"freeze_encoder", "learning_rate"}
    assert one["learning_rate"] == 0.002


def test_the_baseline_is_scratch_or_the_first() -> None:
    assert build(starting_points={"a": "m", "scratch": "n"}).baseline == "scratch"
    assert build(starting_points={"a": "m", "b": "n"}).baseline == "a"
    assert build(starting_points={"a": "m", "b": "n"}, baseline="b").baseline == "b"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "training/configs").rglob("label_efficiency*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_shipped_curves_are_valid_and_compare_with_the_same_architecture(path: Any) -> None:
    arguments = build_grouped_arguments(read_settings(path), LabelEfficiencyArguments)
    assert len(arguments.seeds) >= 3
    assert (ROOT / arguments.point(arguments.baseline)["model"]).is_file()
    assert len(arguments.curve.starting_points) >= 3
