"""The measurement: both versions are the same function, and what it prints follows from what it measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from modeling_rcmstr.perceiver_losses import sample_distractors
from training import measure_perceiver_loss
from training.measure_perceiver_loss import (
    VERSIONS,
    LevelInputs,
    Step,
    gathered_contrastive_loss,
    main,
    make_levels,
    perceiver_contrastive_loss_of,
    report,
    time_in_turns,
)


def test_both_versions_have_the_same_loss_and_gradient() -> None:
    for level in make_levels(2, "cpu"):
        # Few codes, so that many distractors share the target's and are left out.
        level.codes = level.codes % 3
        distractors = sample_distractors(level.queries, level.valid, 20)
        found = [
            (loss, *torch.autograd.grad(loss, (level.context, level.targets)))
            for loss in (
                version(level, distractors, 0.1)
                for version in (perceiver_contrastive_loss_of, gathered_contrastive_loss)
            )
        ]
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_levels_are_the_papers() -> None:
    stroke, semantic = make_levels(3, "cpu")
    assert stroke.context.shape == (3, 768, 128)
    assert semantic.context.shape == (3, 97, 128)
    assert stroke.queries.index.shape[1] in (153, 154)
    assert semantic.queries.index.shape[1] in (14, 15)


def test_report_divides_round_by_round() -> None:
    seconds = {"gathered": [2.0, 6.0, 9.0], "matrix": [1.0, 2.0, 9.0]}
    text = report(64, seconds, {"gathered": 600 * 2**20, "matrix": 100 * 2**20}, 9.5)
    assert "batch 64; same loss 9.5000" in text
    assert "6000.0 ms" in text
    assert "2000.0 ms" in text
    assert "0.50 steps/s" in text
    assert "matrix is 2.00 times as fast and needs 6.00 times less memory" in text


def test_versions_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def recorder(name: str) -> Step:
        def step(levels: Sequence[LevelInputs], seed: int) -> float:
            order.append(f"{name} {seed}")
            return 0.0

        return step

    for name in VERSIONS:
        monkeypatch.setitem(VERSIONS, name, recorder(name))
    seconds = time_in_turns(make_levels(1, "cpu"), 2)
    assert order == ["gathered 0", "matrix 0", "gathered 1", "matrix 1"]
    assert all(len(values) == 2 for values in seconds.values())


def test_different_losses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "gathered", lambda levels, seed: 1.0)
    monkeypatch.setitem(VERSIONS, "matrix", lambda levels, seed: 2.0)
    monkeypatch.setattr(measure_perceiver_loss.torch, "set_num_threads", lambda number: None)
    with pytest.raises(RuntimeError, match="do not compute the same loss"):
        main(["--batch-size", "1"])


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_no_distractor_is_copied(tmp_path: Path) -> None:
    """At least 3 times less memory. Batch 4 here; the command's default is 64."""
    output = tmp_path / "loss.json"
    main(["--batch-size", "4", "--rounds", "1", "--output", str(output)])
    figures = json.loads(output.read_text())
    assert figures["memory_ratio"] > 3
    assert figures["memory_ratio"] == figures["peak_bytes"]["gathered"] / figures["peak_bytes"]["matrix"]
    assert figures["speedup"] == figures["seconds"]["gathered"][0] / figures["seconds"]["matrix"][0]
    assert figures["machine"]["threads"] == 1
