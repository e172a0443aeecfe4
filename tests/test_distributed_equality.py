"""Two processes with half of the words each are one process with all of them, in float64 to 1e-11.

`test_distributed_pretraining` runs the program itself, in float32, where batch norm multiplies rounding at
every update. It must allow 1e-3, and small mistakes would pass: running variances with the n / (n - 1) of one
process are 3e-6 off, masked terms without their share of the hidden patches 7e-8. Here the same loop,
objective, batches and wrapping run in float64, where rounding comes to 3e-14.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from accelerate.utils import set_seed
from torch import Tensor

from tests.pretraining_settings import write_run, write_words
from training.arguments import parse_grouped_arguments
from training.objectives import make_objective
from training.pretraining_arguments import PretrainingArguments
from training.pretraining_loop import PretrainingLoop
from training.pretraining_model import build_pretraining_model, model_family
from training.process_setup import make_accelerator
from training.rcmstr_objective import RCMSTRObjective
from training.run_pretraining import build_batches, build_optimizer, place_model, run_arithmetic

UPDATES = 4
TOLERANCE = 1e-11
# Queues that are filled more than once in these updates, and gradients that are cut.
SETTINGS: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "max_grad_norm": 0.5,
    "max_steps": UPDATES,
    "queue_size": 480,
    "key_momentum": 0.9,
}


@dataclass(frozen=True)
class Case:
    """A run that is divided in two ways: words of a batch and batches of an update, of each process."""

    family: str
    encoder: str
    one: tuple[int, int]
    two: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "synchronised-batch-norm": Case("rcmstr", "cnn", one=(8, 1), two=(4, 1)),
    "accumulated-batches": Case("rcmstr", "cnn", one=(4, 2), two=(2, 2), settings={"legacy_enqueue": True}),
    "shuffled-keys": Case("rcmstr", "vit", one=(8, 1), two=(4, 1), settings={"batchnorm": "shuffled"}),
    "persec": Case("persec", "vit", one=(4, 2), two=(4, 1)),
}


class RecordingLoop(PretrainingLoop):
    """The loop on float64 batches, with a note of every loss; it writes no checkpoint."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: dict[str, list[Tensor]] = {}

    def update(self) -> tuple[Any, dict[str, Tensor]]:
        if self.progress.step == 0:
            self._stream = _doubled(self._stream)
        return super().update()

    def save(self) -> Path:
        return self.folder

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.losses.setdefault(name, []).append(value.double())
        super()._add(values)


def _doubled(batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    for batch in batches:
        yield {
            name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()
        }


def run_updates(config: Path) -> dict[str, Tensor]:
    """A whole run of this process, as the program sets it up, in float64.

    Returns:
        The means of all losses, the gradients of every update as the optimizer sees them, and at the end
        weights, running statistics, momentum encoder and queues.
    """
    arguments = parse_grouped_arguments([str(config)], PretrainingArguments)
    run, settings = arguments.run, arguments.optimisation
    accelerator = make_accelerator(settings, model_family(run.model))
    set_seed(run.seed)
    torch.set_num_threads(1)
    model, image_processor = build_pretraining_model(run, arguments.data.processor)
    model.double()
    place_model(model, settings, accelerator)
    slots = settings.gradient_accumulation_steps * accelerator.num_processes
    objective = make_objective(
        model,
        arguments.objective,
        run.seed,
        settings.batch_size,
        slots,
        settings.batchnorm == "shuffled",
    )
    if isinstance(objective, RCMSTRObjective) and objective.queues is not None:
        for queue in objective.queues.queues.values():
            queue.features = queue.features.double()
    batches = build_batches(arguments, image_processor, objective, accelerator)
    progress = run_arithmetic(settings, accelerator)
    optimizer = build_optimizer(model, settings, progress.words_per_update)
    found: dict[str, Tensor] = {}

    def note_gradients(*_: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"gradient {loop.progress.step} {name}"] = parameter.grad.detach().clone()

    optimizer.register_step_pre_hook(note_gradients)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    loop = RecordingLoop(
        arguments, accelerator, prepared, optimizer, objective, batches, image_processor, progress
    )
    assert loop.run()
    for name, values in loop.losses.items():
        found[f"loss {name}"] = torch.stack(values).view(UPDATES, -1).mean(1)
    found |= {f"model {name}": tensor for name, tensor in model.state_dict().items()}
    return found | {f"objective {name}": tensor for name, tensor in objective.state_dict().items()}


def _in_process(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for case in CASES:
        found = run_updates(Path(folder) / case / "two" / "pretrain.yaml")
        assert dist.get_world_size() == 2
        torch.save(found, Path(folder) / case / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of every case, and what two processes found under them: their imports take the longest."""
    folder = tmp_path_factory.mktemp("runs")
    words = write_words(folder / "words")
    for name, case in CASES.items():
        for processes, (batch_size, batches) in (("one", case.one), ("two", case.two)):
            write_run(
                folder / name / processes,
                words,
                case.family,
                case.encoder,
                batch_size=batch_size,
                gradient_accumulation_steps=batches,
                **{**SETTINGS, **case.settings},
            )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_in_process, (port, str(folder)), nprocs=2, daemon=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_in_double_precision(runs: Path, case: str) -> None:
    expected = run_updates(runs / case / "one/pretrain.yaml")
    first, second = (torch.load(runs / case / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys() == expected.keys()
    assert {name.split()[0] for name in expected} == {"loss", "gradient", "model"} | (
        {"objective"} if CASES[case].family == "rcmstr" else set()
    )
    for name, tensor in expected.items():
        if name == "loss gradient_norm":
            continue  # float32
        if name.startswith("loss "):
            found = (first[name] + second[name]) / 2
        else:
            found = first[name]
            assert torch.equal(second[name], found), f"the processes differ in {name}"
        if not tensor.is_floating_point():
            assert torch.equal(found, tensor), name
            continue
        assert tensor.dtype == found.dtype == torch.float64, name
        error = float((found - tensor).abs().max())
        assert error <= TOLERANCE * max(1.0, float(tensor.abs().max())), (name, error)
