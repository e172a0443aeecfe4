"""Settings of a study: what is wrong is said before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from training.arguments import build_grouped_arguments, read_settings
from training.study_arguments import StudyArguments

SHIPPED = Path(__file__).resolve().parent.parent / "training/configs/study/study.yaml"
MINIMAL: dict[str, Any] = {
    "rows": {"untrained": {"model": "model.json", "pretrained": False}},
    "pretraining": "pretrain.yaml",
    "rendering": "rendering.yaml",
    "output_dir": "runs/study",
}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": {}}, "at least one row"),
        ({"rows": {"a": {"model": "m.json", "preste": "reg"}}}, r"'a' has unknown fields \['preste'\]"),
        ({"rows": {"a": {"preset": "reg"}}}, "'a' must name its `model`"),
        ({"seeds": []}, "different whole numbers"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"heads": ["ctc", "crf"]}, "must be of ctc, attention"),
        ({"heads": []}, "must be of ctc, attention"),
        ({"test_words": 0}, "`test_words` must be at least 1"),
        ({"jobs": 0}, "`jobs` must be at least 1"),
        ({"seed": 3}, "'seed' .did you mean 'seeds'"),
    ],
)
def test_wrong_settings_are_refused_with_the_rule(change: dict[str, Any], match: str) -> None:
    assert build_grouped_arguments(dict(MINIMAL), StudyArguments).run.jobs == 1
    with pytest.raises(ValueError, match=match):
        build_grouped_arguments({**MINIMAL, **change}, StudyArguments)


def test_the_shipped_study_has_every_row_that_the_papers_compare() -> None:
    rows = build_grouped_arguments(read_settings(SHIPPED), StudyArguments).rows
    presets = {row.get("preset") for row in rows.rows.values()}
    assert {"seqmoco_without_kl", "seqmoco", "reg", "hier", "rclstr", "mim", "rcmstr"} <= presets
    assert {"stroke_only", "semantic_only", "A", "C", "without_quantizer"} <= presets
    changes = [row.get("model_settings") or {} for row in rows.rows.values()]
    assert {"decouple": False} in changes
    assert any("mask_ratio" in change for change in changes)
    assert any("mask_num_blocks" in change for change in changes)
    assert len(rows.seeds or [0, 1, 2]) >= 3
