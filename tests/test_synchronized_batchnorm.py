"""Synchronised batch norm: alone it is the package's layer; two processes equal one with all words."""

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d
from training.feature_queue import gather_rows
from training.momentum_encoder import MomentumEncoder
from training.synchronized_batchnorm import SynchronizedBatchNorm2d, synchronize_batchnorm


def small_model() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), SparseBatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3)))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def test_replacing_keeps_every_tensor_and_name() -> None:
    model = small_model()
    before = dict(model.state_dict(keep_vars=True))
    assert synchronize_batchnorm(model) == 2
    after = dict(model.state_dict(keep_vars=True))
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert isinstance(model[1], SynchronizedBatchNorm2d)
    assert isinstance(model.get_submodule("2.0"), SynchronizedBatchNorm2d)
    assert synchronize_batchnorm(model) == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_alone_it_is_the_packages_layer(training: bool, masked: bool) -> None:
    layer = SparseBatchNorm2d(3).train(training)
    same = SynchronizedBatchNorm2d.from_batchnorm(layer)
    active = (torch.rand(4, 1, 5, 6) > 0.5).float() if masked else None
    values = torch.randn(4, 3, 5, 6) * (1 if active is None else active)
    assert torch.equal(same(values, active, False), layer(values, active, False))
    assert same.training == training


def words_and_masks(masked: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    words = 3 + 2 * torch.randn(4, 2, 3, 5, generator=generator)
    if not masked:
        return words, None
    active = (torch.rand(4, 1, 3, 5, generator=generator) > 0.6).float()
    active[2:] = 0  # the second process has no active position
    return words, active


def outputs_and_gradients(
    model: nn.Sequential, words: torch.Tensor, active: torch.Tensor | None, whole: int
) -> dict[str, torch.Tensor]:
    """Forward and backward of a loss that is a mean over `whole` words."""
    hidden = model[0](words)
    hidden = model[1](hidden if active is None else hidden * active, active)
    hidden = model[2](hidden)
    weights = torch.linspace(-1, 1, hidden[0].numel()).view(hidden.shape[1:])
    loss = (hidden * weights).square().sum() / whole
    loss.backward()
    results = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {**results, "output": hidden.detach(), **{name: b.clone() for name, b in model.named_buffers()}}


def _in_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), rank=rank, world_size=2)
    results: dict[str, Any] = {}
    own = slice(2 * rank, 2 * rank + 2)
    for masked in (False, True):
        model = small_model()
        synchronize_batchnorm(model)
        words, active = words_and_masks(masked)
        found = outputs_and_gradients(model, words[own], None if active is None else active[own], 4)
        for name, _ in model.named_parameters():
            dist.all_reduce(found[name])
        results[str(masked)] = found
    results["rows"] = gather_rows(torch.tensor([[rank], [10 + rank]]))
    words, _ = words_and_masks(False)
    encoder = MomentumEncoder(_RowModel(), 0.9)
    results["keys"] = encoder.encode(words[own], shuffle=torch.Generator().manual_seed(5))["word"]
    results["encoded"] = encoder.model.seen
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


class _RowModel(nn.Module):
    """Keys that depend on their own word only, and a note of which words were encoded here."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = torch.zeros(0)

    def encode_keys(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen = pixel_values.flatten(1)[:, 0]
        return {"word": pixel_values.flatten(1)[:, None] * self.weight}


@pytest.mark.slow
def test_two_processes_equal_one_with_all_words(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics to 1e-5; keys in the order of the words, shuffled or not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_in_process, (port, str(tmp_path)), nprocs=2, daemon=True)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for masked in (False, True):
        words, active = words_and_masks(masked)
        alone = outputs_and_gradients(small_model(), words, active, 4)
        here = {**first[str(masked)]}
        here["output"] = torch.cat([first[str(masked)]["output"], second[str(masked)]["output"]])
        for name, expected in alone.items():
            assert torch.allclose(here[name].float(), expected.float(), rtol=1e-5, atol=1e-5), (masked, name)
    assert torch.equal(first["rows"], torch.tensor([[0], [10], [1], [11]]))
    assert torch.equal(first["rows"], second["rows"])
    words, _ = words_and_masks(False)
    keys = torch.cat([first["keys"], second["keys"]])[:, 0]
    assert torch.equal(keys, words.flatten(1)), "keys come back to their own words"
    encoded = torch.cat([first["encoded"], second["encoded"]])
    assert not torch.equal(encoded, words.flatten(1)[:, 0]), "they were encoded elsewhere"
    assert torch.equal(encoded.sort().values, words.flatten(1)[:, 0].sort().values)
