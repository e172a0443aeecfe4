"""The straightforward step is the same step: equal in float64; the command prints what it measured."""

import json
from pathlib import Path

import pytest

from tests.pretraining_models import SMALL
from training import measure_pretraining_step
from training.measure_pretraining_step import Settings, compare_ways, main, measurement_settings, prepare_step


def test_package_equals_the_straightforward_way(encoder: str) -> None:
    """Loss and every gradient, written line by line from the papers against what trains."""
    step = prepare_step(Settings(encoder=encoder, batch_size=4, queue_size=32), **SMALL)
    assert compare_ways(step) < 1e-10


def test_comparison_notices_a_difference(encoder: str) -> None:
    step = prepare_step(Settings(encoder=encoder, batch_size=4, queue_size=32), **SMALL)
    step.model.config.kl_reduction = "mean"  # what the straightforward way does not know
    assert compare_ways(step) > 1e-4


def test_command_prints_both_ways_and_their_ratio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(measure_pretraining_step.SIZES, "small", SMALL)
    output = tmp_path / "step.json"
    ratio = main(["batch_size=4", "queue_size=32", "rounds=1", f"output={output}"])
    printed = capsys.readouterr().out
    assert ratio > 0
    assert f"{ratio:.2f} times as fast" in printed
    assert "straightforward" in printed
    assert "package" in printed
    kept = json.loads(output.read_text())
    assert kept["speedup"] == ratio
    assert kept["settings"]["queue_size"] == 32
    assert len(kept["seconds"]["package"]) == len(kept["seconds"]["straightforward"]) == 1


def test_settings_are_typed_and_known() -> None:
    settings = measurement_settings(["encoder=vit", "rounds=2"])
    assert (settings.encoder, settings.rounds, settings.queue_size) == ("vit", 2, 65536)
    with pytest.raises(ValueError, match="unknown setting 'round'; known: encoder, size"):
        measurement_settings(["round=2"])
    with pytest.raises(ValueError, match="`size` must be one of small, paper, got 'big'"):
        measurement_settings(["size=big"])
