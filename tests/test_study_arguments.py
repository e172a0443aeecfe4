"""Settings of a study: what is wrong is said before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_rcmstr import PerSecConfig, PerSecModel, RCMSTRConfig
from tests.programs import ROOT
from training.arguments import build_grouped_arguments, read_settings
from training.study_arguments import StudyArguments

SHIPPED = [ROOT / f"training/configs/study/{family}.yaml" for family in ("rcmstr", "persec")]
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
        ({"comparisons": [["untrained", "reg"]]}, r"must hold pairs of rows, got \['untrained', 'reg'\]"),
        ({"comparisons": [["untrained"]]}, "must hold pairs of rows"),
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


def test_the_shipped_studies_have_every_row_that_the_papers_compare() -> None:
    studies = [build_grouped_arguments(read_settings(path), StudyArguments).rows for path in SHIPPED]
    rows = [row for study in studies for row in study.rows.values()]
    presets = {row.get("preset") for row in rows}
    assert {"seqmoco_without_kl", "seqmoco", "reg", "hier", "rclstr", "mim", "rcmstr"} <= presets
    assert {"stroke_only", "semantic_only", "A", "C", "without_quantizer"} <= presets
    changes = [row.get("model_settings") or {} for row in rows]
    assert any(change.get("decouple") is False for change in changes)
    assert any(change.get("mask_num_blocks") == 0 for change in changes), "random mask"
    assert any(change.get("mask_ratio") == 0 for change in changes), "block mask"
    assert all(len(study.seeds or []) >= 3 for study in studies)


@pytest.mark.parametrize(("model", "columns"), [("persec_small", 29), ("persec_trba", 96)])
def test_frames_of_persecs_encoders_see_so_many_columns(model: str, columns: int) -> None:
    """Where the gradient of one frame arrives: what its neighbours tell of a hidden frame depends on it."""
    fields = json.loads((ROOT / f"training/configs/study/{model}.json").read_text())
    del fields["model_type"]
    encoder = PerSecModel(PerSecConfig(**fields)).double().eval()
    words = torch.randn(1, 3, 32, 400, dtype=torch.double, requires_grad=True)
    frames = encoder(words).last_hidden_state
    (gradient,) = torch.autograd.grad(frames[..., frames.shape[-1] // 2].square().sum(), words)
    assert int((gradient.abs().sum((0, 1, 2)) > 0).sum()) == columns


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_row_of_a_shipped_study_is_a_model_that_can_be_built(path: Path) -> None:
    """Presets, model files and changed fields fit together; the weights are not made."""
    rows = build_grouped_arguments(read_settings(path), StudyArguments).rows
    assert (ROOT / rows.pretraining).is_file()
    for name, row in rows.rows.items():
        fields = json.loads((ROOT / row["model"]).read_text())
        kind: Any = {"rcmstr": RCMSTRConfig, "persec": PerSecConfig}[fields.pop("model_type")]
        preset = kind.presets()[row["preset"]] if "preset" in row else {}
        config = kind(**{**fields, **preset, **(row.get("model_settings") or {})})
        assert config.loss_weights or not row.get("pretrained", True), name
