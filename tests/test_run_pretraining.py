"""Whole pretraining runs of tiny models in one process: what they leave, and that they go on exactly.

Runs that are killed from outside are in `test_killed_pretraining`.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling_rcmstr import PerSecForTextRecognition, RCMSTRForTextRecognition
from tests.pretraining_settings import checkpoint_tensors, losses_of, read_log, write_run, write_words
from training.pretraining_loop import PretrainingLoop
from training.run_pretraining import main
from training.word_trainer import TrainingDivergedError


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words")


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "final" / "model.safetensors"))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


RUNS = [("rcmstr", "cnn"), ("rcmstr", "vit"), ("persec", "cnn"), ("persec", "vit")]


@pytest.mark.parametrize(("family", "encoder"), RUNS)
def test_a_run_leaves_a_log_checkpoints_and_a_model_to_go_on_with(
    tmp_path: Path, words: Path, family: str, encoder: str
) -> None:
    probe: dict[str, Any] = {
        "probe_source": f"folder:{words}",
        "probe_train_words": 12,
        "probe_eval_words": 8,
        "probe_updates": 3,
        "probe_steps": 2,
    }
    config = write_run(
        tmp_path, words, family, encoder, max_steps=3, save_steps=1, keep_checkpoints=2, **probe
    )
    assert main([str(config)]) == 0
    run = tmp_path / "run"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert not [path for path in run.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".pth"}], (
        "no pickle"
    )
    log = read_log(run)
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    wanted = {"gradient_norm", "learning_rate", "images_per_second", "data_wait", "images", "minutes"}
    if family == "rcmstr":
        wanted |= {"contrastive_loss", "consistency_loss", "inter_hierarchical_loss", "reconstruction_loss"}
        wanted |= {
            f"{level}/{name}" for level in ("frame", "subword", "word") for name in ("uniformity", "positive")
        }
        wanted |= {"word/effective_rank", "frame/queue_mean", "term/frame_contrastive"}
    else:
        wanted |= {"stroke_contrastive_loss", "semantic_diversity_loss", "gumbel_temperature"}
        wanted |= {"stroke_codebook_0/perplexity", "semantic_codebook_1/used"}
    assert wanted <= set(steps[-1])
    assert [entry["step"] for entry in log if "probe/word_accuracy" in entry] == [2, 3]
    record = json.loads((run / "final" / "training_record.json").read_text())
    assert record["images_seen"] == 12
    assert len(record["probes"]) == 2
    reader = RCMSTRForTextRecognition if family == "rcmstr" else PerSecForTextRecognition
    recogniser = reader.from_pretrained(run / "final")
    weights = final_weights(run)
    encoder_weights = {
        name: tensor for name, tensor in recogniser.state_dict().items() if name.startswith("model.")
    }
    assert encoder_weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder_weights.items())


def test_two_runs_of_one_seed_are_one_run_with_or_without_a_probe_log_and_worker(
    tmp_path: Path, words: Path
) -> None:
    plain = write_run(tmp_path / "plain", words, log_steps=4)
    watched = write_run(
        tmp_path / "watched",
        words,
        probe_source=f"folder:{words}",
        probe_train_words=8,
        probe_eval_words=8,
        probe_updates=2,
        probe_steps=1,
        picture_steps=1,
        tensorboard=True,
        data_workers=1,
    )
    other = write_run(tmp_path / "other", words, seed=1)
    for config in (plain, watched, other):
        assert main([str(config)]) == 0
    assert equal(final_weights(tmp_path / "plain/run"), final_weights(tmp_path / "watched/run"))
    assert not equal(final_weights(tmp_path / "plain/run"), final_weights(tmp_path / "other/run"))
    assert list((tmp_path / "watched/run/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("family", "encoder", "fields", "settings"),
    [
        ("rcmstr", "vit", {"hidden_dropout_prob": 0.1}, {"optimizer": "adamw", "warmup_steps": 3}),
        ("rcmstr", "cnn", {}, {"optimizer": "sgd", "gradient_accumulation_steps": 2, "legacy_enqueue": True}),
        ("persec", "cnn", {}, {"bucket_batches": 2, "max_grad_norm": 1.0}),
    ],
)
def test_a_run_that_broke_off_goes_on_bit_for_bit(
    tmp_path: Path,
    words: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    encoder: str,
    fields: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    common = {"fields": fields, "max_steps": 5, "save_steps": 2, "batch_size": 2, **settings}
    whole = write_run(tmp_path / "whole", words, family, encoder, **common)
    broken = write_run(tmp_path / "broken", words, family, encoder, **common)
    assert main([str(whole)]) == 0
    update = PretrainingLoop.update

    def break_off(self: PretrainingLoop) -> Any:
        if self.progress.step == 3:
            raise OSError("the power is gone")
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingLoop, "update", break_off)
        with pytest.raises(OSError, match="power"):
            main([str(broken)])
    torch.rand(7)  # the next session starts with other random states
    assert main([str(broken), "resume=true"]) == 0
    first, second = (
        checkpoint_tensors(tmp_path / name / "run/checkpoints/checkpoint-5") for name in ("whole", "broken")
    )
    assert equal(first, second), [name for name in first if not torch.equal(first[name], second[name])]
    assert losses_of(tmp_path / "whole/run") == losses_of(tmp_path / "broken/run"), (
        "the lost update's line is replaced"
    )


def test_a_run_that_is_told_to_stop_saves_first(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_run(tmp_path, words)
    update = PretrainingLoop.update

    def stop_at_second(self: PretrainingLoop) -> Any:
        if self.progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(PretrainingLoop, "update", stop_at_second)
    assert main([str(config)]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-2"]
    assert not (tmp_path / "run/final").exists()


def test_accumulated_batches_are_one_large_batch(tmp_path: Path, words: Path) -> None:
    """A ViT has no batch statistics: two batches of 4 and one of 8 give the same weights to 1e-5."""
    settings: dict[str, Any] = {"optimizer": "sgd", "max_steps": 2, "sgd_momentum": 0.0}
    one = write_run(tmp_path / "one", words, "rcmstr", "vit", batch_size=8, **settings)
    two = write_run(
        tmp_path / "two", words, "rcmstr", "vit", batch_size=4, gradient_accumulation_steps=2, **settings
    )
    for config in (one, two):
        assert main([str(config)]) == 0
    first, second = (
        checkpoint_tensors(tmp_path / name / "run/checkpoints/checkpoint-2") for name in ("one", "two")
    )
    for name, tensor in first.items():
        if not name.startswith("random"):
            assert torch.allclose(tensor.float(), second[name].float(), rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    "settings",
    [
        {"activation_checkpointing": True},
        pytest.param({"compile_backend": "eager"}, marks=pytest.mark.slow),
    ],
)
def test_memory_and_speed_switches_change_no_result(
    tmp_path: Path, words: Path, settings: dict[str, Any]
) -> None:
    plain = write_run(tmp_path / "plain", words, "rcmstr", "vit", max_steps=2)
    other = write_run(tmp_path / "other", words, "rcmstr", "vit", max_steps=2, **settings)
    for config in (plain, other):
        assert main([str(config)]) == 0
    first, second = final_weights(tmp_path / "plain/run"), final_weights(tmp_path / "other/run")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6) for name in first)


@pytest.mark.parametrize(("family", "encoder"), [("rcmstr", "cnn"), ("persec", "vit")])
def test_bfloat16_keeps_weights_and_keys_in_float32(
    tmp_path: Path, words: Path, family: str, encoder: str
) -> None:
    config = write_run(tmp_path, words, family, encoder, bf16=True, max_steps=2)
    plain = write_run(tmp_path / "plain", words, family, encoder, max_steps=2)
    for path in (config, plain):
        assert main([str(path)]) == 0
    kinds = {
        tensor.dtype for tensor in checkpoint_tensors(tmp_path / "run/checkpoints/checkpoint-2").values()
    }
    assert torch.bfloat16 not in kinds
    # The first update sees the same weights: its loss differs by bfloat16's rounding only.
    low, full = (losses_of(tmp_path / name)[0] for name in ("run", "plain/run"))
    assert low != full
    assert low == pytest.approx(full, rel=0.05)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_touched(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_run(tmp_path, words, save_steps=1)
    update = PretrainingLoop.update

    def spoil_third(self: PretrainingLoop) -> Any:
        if self.progress.step == 2:
            batch = next(self._stream)
            batch["pixel_values"][1, 0, 0, 0] = float("nan")
            self._stream = iter([batch])
        return update(self)

    monkeypatch.setattr(PretrainingLoop, "update", spoil_third)
    with pytest.raises(TrainingDivergedError, match="at update 3, learning rate 0.00.*Resume from the last"):
        main([str(config)])
    saved = load_file(str(tmp_path / "run/diverged-2/process-00000.safetensors"))
    assert torch.isnan(saved["0.pixel_values"]).sum() == 1
    assert {"0.second_pixel_values", "0.visible", "0.order"} <= saved.keys()
    note = json.loads((tmp_path / "run/diverged-2/process-00000.json").read_text())
    assert note["gradient_norm"] == "nan"
    last = load_file(str(tmp_path / "run/checkpoints/checkpoint-2/model.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in last.values())


def test_pretraining_goes_on_from_a_folder_with_other_settings(tmp_path: Path, words: Path) -> None:
    assert main([str(write_run(tmp_path / "first", words, max_steps=1))]) == 0
    final = tmp_path / "first/run/final"
    config = write_run(
        tmp_path / "second",
        words,
        model=str(final),
        preset="seqmoco",
        model_settings={"consistency_temperature": 0.05},
        max_steps=1,
        learning_rate=0.0000001,
        weight_decay=0.0,
    )
    assert main([str(config)]) == 0
    stored = json.loads((tmp_path / "second/run/final/config.json").read_text())
    assert stored["consistency_temperature"] == 0.05
    assert stored["query_views"] == "plain"
    first, second = final_weights(tmp_path / "first/run"), final_weights(tmp_path / "second/run")
    shared = [name for name in first if name in second and first[name].is_floating_point()]
    convolutions = [name for name in shared if "convolution" in name]
    assert convolutions
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in convolutions)


def test_a_run_does_not_write_over_another(tmp_path: Path, words: Path) -> None:
    config = write_run(tmp_path, words, max_steps=1)
    assert main([str(config)]) == 0
    with pytest.raises(ValueError, match="holds a run with checkpoint-1; set resume=true"):
        main([str(config)])
    with pytest.raises(ValueError, match="words per update 4, this one has 8"):
        main([str(config), "resume=true", "gradient_accumulation_steps=2"])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 3}, "multiple of `images_per_group` 2"),
        ({"activation_checkpointing": True}, "for the vit encoder"),
        ({"queue_size": 64}, "must hold at least the keys of one update, 104"),
        ({"preset": "moco"}, "unknown `preset` 'moco' of rcmstr; known: seqmoco_without_kl"),
        ({"model_settings": {"projection": 8}}, "rcmstr has no fields \\['projection'\\]"),
        ({"model": "nowhere"}, "does not exist"),
        ({"processor": {"keep_aspect_ratio": True}}, "leave `keep_aspect_ratio` off"),
        ({"deepspeed": "nowhere.json"}, "the file 'nowhere.json' does not exist"),
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(
    tmp_path: Path, words: Path, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        main([str(write_run(tmp_path, words, **settings))])
