"""A study of tiny rows: drawn words, every row with every seed, what is done is not done again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from modeling_rcmstr import TextRecognitionImageProcessor
from tests.pretraining_settings import write_run, write_words
from training.run_study import as_yaml, main, refresh_batchnorm

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_font: Path) -> Path:
    """Three rows, two of them trained for two updates."""
    words = write_words(tmp_path / "words", 4)
    pretraining = write_run(tmp_path / "tiny", words, max_steps=2, batch_size=2)
    model = str(tmp_path / "tiny/model.json")
    (tmp_path / "rendering.yaml").write_text(
        yaml.safe_dump({"fonts": [str(good_font)], "texts": {"max_length": 4, "kinds": [["word", 1.0]]}})
    )
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path / "study"),
        "pretraining": str(pretraining),
        "rows": {
            "untrained": {"model": model, "pretrained": False},
            "seqmoco": {"model": model, "preset": "seqmoco"},
            "weak": {"model": model, "preset": "mim", "settings": {"learning_rate": 0.00001}},
        },
        "rendering": str(tmp_path / "rendering.yaml"),
        "seeds": [0, 1],
        "unlabelled_words": 8,
        "labelled_words": 6,
        "test_words": 4,
        "head_updates": 2,
        "refresh_words": 8,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_every_row_runs_once_with_every_seed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study.parent / "study"
    assert main([str(study), "seeds=[0]"]) == 0
    first = {path.name: path.read_bytes() for path in (folder / "results").iterdir()}
    assert sorted(first) == ["seqmoco-seed-0.json", "untrained-seed-0.json", "weak-seed-0.json"]
    assert capsys.readouterr().out.count(", seed 0: ctc ") == 3
    (folder / "results/untrained-seed-0.json").unlink()
    with pytest.raises(ValueError, match=r"other settings \(heads\).*choose another `output_dir`"):
        main([str(study), "head_updates=3"])
    assert main([str(study), "seeds=[0]"]) == 0
    assert capsys.readouterr().out.count(", seed 0: ctc ") == 1, "what is done stays"
    assert {path.name: path.read_bytes() for path in (folder / "results").iterdir()} == first, (
        "and comes out again"
    )
    content = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["untrained", "seqmoco", "weak"]
    trained = {one["row"]: one["pretraining"] for one in content["results"]}
    assert trained["untrained"] is None
    # The second of two updates is half-way down the cosine.
    assert trained["weak"]["last"]["learning_rate"] == pytest.approx(0.000005)
    assert trained["seqmoco"]["images_seen"] == 4


def test_a_row_that_fails_does_not_stop_the_others(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(study.read_text())
    settings["rows"] = {
        "wrong": {**settings["rows"]["seqmoco"], "model_settings": {"decouple": False}},
        "untrained": settings["rows"]["untrained"],
    }
    study.write_text(yaml.safe_dump(settings))
    assert main([str(study), "seeds=[0]"]) == 1
    assert "failed: wrong, seed 0: StrictDataclass" in capsys.readouterr().err
    assert (study.parent / "study/results/untrained-seed-0.json").is_file()


def test_a_process_that_is_killed_is_started_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process that trains a row is ended from outside, once."""
    mark = study.parent / "killed"
    (study.parent / "sitecustomize.py").write_text(
        "import os, pathlib, signal, sys\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if any('spawn_main' in part for part in sys.orig_argv) and not mark.exists():\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(study.parent))
    rows = yaml.safe_load(study.read_text())["rows"]
    assert main([str(study), "seeds=[0]", f"rows={as_yaml({'untrained': rows['untrained']})}"]) == 0
    assert mark.exists()
    assert (study.parent / "study/results/untrained-seed-0.json").is_file()


@pytest.mark.parametrize("keep_aspect_ratio", [False, True])
def test_statistics_are_the_plain_means_over_the_batches(tmp_path: Path, keep_aspect_ratio: bool) -> None:
    """Words of unequal width are padded and come with their mask, like in training."""
    words = write_words(tmp_path / "words", 6)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm: Any = nn.BatchNorm2d(3, momentum=0.3)

        def forward(self, pixel_values: torch.Tensor, pixel_mask: Any) -> torch.Tensor:
            assert (pixel_mask is not None) == keep_aspect_ratio
            return torch.as_tensor(self.norm(pixel_values))

    encoder = Encoder()
    processor = TextRecognitionImageProcessor(
        size={"height": 32, "width": 100}, keep_aspect_ratio=keep_aspect_ratio
    )
    encoder.norm.running_mean.fill_(7.0)
    refresh_batchnorm(encoder, processor, f"folder:{words}", 6)
    pixels = processor([str(path) for path in sorted(words.glob("*.png"))], return_tensors="pt")[
        "pixel_values"
    ]
    assert torch.allclose(encoder.norm.running_mean, pixels.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(encoder.norm.running_var, pixels.transpose(0, 1).flatten(1).var(1), rtol=1e-4)
    assert encoder.norm.momentum == 0.3
    assert not encoder.training
    kept = encoder.norm.running_mean.clone()
    refresh_batchnorm(encoder, processor, f"folder:{words}", 0)
    assert torch.equal(encoder.norm.running_mean, kept)


@pytest.mark.parametrize("value", [1e-8, {"a:b": 1}, [1, "x"], None, "é: {", {"decouple": False}])
def test_overrides_survive_the_command_line(value: Any) -> None:
    text = as_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
