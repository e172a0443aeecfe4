"""The library's settings of a fine-tuning run: launchers that are refused, and what processes rely on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from tests.recognisers import class_of
from training.arguments import FinetuningArguments, build_arguments
from training.trainer_arguments import library_arguments


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def settings(folder: Path, **changes: Any) -> FinetuningArguments:
    required = {"output_dir": str(folder), "model": "-", "train_sources": {"unused:": 1}, "max_steps": 1}
    return build_arguments({**required, **changes})


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_a_launcher_that_divides_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"the launcher uses {name}.*or `torchrun`"):
        library_arguments(settings(tmp_path))


def test_a_launcher_with_another_precision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="mixed precision 'fp16': set `bf16: true`"):
        library_arguments(settings(tmp_path))


@pytest.mark.parametrize(("found", "used"), [(0, 0), (1, 1), (8, 1)])
def test_one_process_trains_on_one_gpu_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int, used: int
) -> None:
    """The library would wrap the model in `DataParallel`, which divides every batch among threads."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda made: vars(made).get("_n_gpu", found)))
    monkeypatch.setattr(TrainingArguments, "_setup_devices", torch.device("cpu"))
    monkeypatch.setattr(TrainingArguments, "distributed_state", None, raising=False)
    assert library_arguments(settings(tmp_path)).n_gpu == used


@pytest.mark.parametrize("rectifier", ["none", "tps"])
@pytest.mark.parametrize("decoder", ["ctc", "attention"])
@pytest.mark.parametrize("encoder", ["cnn", "vit"])
@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_every_trained_weight_takes_part_in_every_batch(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str, rectifier: str
) -> None:
    """Several processes would otherwise wait for the gradient of one that has none."""
    fields = {"rectifier_type": rectifier, "encoder_bilstm_layers": 1, "head_bilstm_layers": 1}
    torch.manual_seed(0)
    model = class_of(family, decoder)(tiny_config(family, encoder, decoder, **fields))
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    model(pixel_values=torch.rand(2, 3, 32, 128), labels=labels).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
