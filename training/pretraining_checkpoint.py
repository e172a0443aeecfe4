"""Checkpoints of a pretraining run: all that it needs to go on exactly, in files that need no trust.

    checkpoints/checkpoint-200/
        config.json, model.safetensors, preprocessor_config.json     the model, as `from_pretrained` reads it
        objective.safetensors                                        momentum encoder and queues
        optimizer-00000.safetensors, .json                           optimizer; under ZeRO one part per
        process random-00000.safetensors, .json                              random generators of each process
        progress.json                                                update, time, images, arithmetic of the
        run

A checkpoint appears whole or not at all. Every process calls both functions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from training.deepspeed_state import load_zero_optimizer_state, zero_optimizer_state
from training.objectives import Objective
from training.run_state import prune, shared_whole_folder, write_json_file
from training.tensor_state import load_nested, random_state, restore_random_state, save_nested

PROGRESS_FILE = "progress.json"


@dataclass
class RunProgress:
    """What a later session must know.

    Args:
        step: updates done.
        seconds: time used, in all sessions.
        images: words read by all processes.
        words_per_update: of all processes; a run that goes on must have as many.
        batches_per_update: accumulated batches; the data's position is counted in them.
        world_size: number of processes.
        zero_stage: of DeepSpeed; 0 without.
        counts: words that the main process has read, and unreadable ones, by source.
    """

    step: int = 0
    seconds: float = 0.0
    images: int = 0
    words_per_update: int = 0
    batches_per_update: int = 1
    world_size: int = 1
    zero_stage: int = 0
    counts: dict[str, int] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    objective: Objective,
    image_processor: Any,
    progress: RunProgress,
    keep: int,
) -> Path:
    """Write `folder/checkpoint-STEP` and delete all but the newest `keep` checkpoints.

    Args:
        folder: where the run's checkpoints are.
        accelerator: of the run.
        model: as prepared.
        optimizer: as prepared.
        objective: of the run.
        image_processor: of the model.
        progress: of the run.
        keep: number of checkpoints to keep.

    Returns:
        The checkpoint's folder.
    """
    target = folder / f"checkpoint-{progress.step}"
    weights = accelerator.get_state_dict(model)  # under ZeRO-3, gathered by all processes together
    with shared_whole_folder(target, accelerator.is_main_process, accelerator.wait_for_everyone) as staging:
        part = f"{accelerator.process_index:05d}"
        if accelerator.is_main_process:
            save_pretrained_model(staging, accelerator.unwrap_model(model), weights, image_processor)
            tensors = {
                name: tensor.detach().cpu().contiguous() for name, tensor in objective.state_dict().items()
            }
            save_file(tensors, str(staging / "objective.safetensors"))
            write_json_file(staging / PROGRESS_FILE, asdict(progress))
        if progress.zero_stage:
            save_nested(staging / f"optimizer-{part}", zero_optimizer_state(optimizer.optimizer))
        elif accelerator.is_main_process:
            save_nested(staging / f"optimizer-{part}", optimizer.state_dict())
        save_nested(staging / f"random-{part}", random_state())
    if accelerator.is_main_process:
        prune(folder, keep)
    return target


def save_pretrained_model(
    folder: Path, model: Any, weights: dict[str, torch.Tensor], image_processor: Any
) -> None:
    """Write a model and its image processor so that `from_pretrained` reads them."""
    model.save_pretrained(folder, state_dict=weights)
    image_processor.save_pretrained(folder)


def read_progress(checkpoint: Path, expected: RunProgress) -> RunProgress:
    """What a checkpoint says of the run.

    Args:
        checkpoint: its folder.
        expected: the arithmetic of this session.

    Raises:
        ValueError: when the run cannot go on exactly with this session's numbers.
    """
    progress = RunProgress(**json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8")))
    for name in ("words_per_update", "zero_stage"):
        if getattr(progress, name) != getattr(expected, name):
            raise ValueError(
                f"{checkpoint} belongs to a run with {name.replace('_', ' ')} {getattr(progress, name)}, "
                f"this one has {getattr(expected, name)}; a run goes on exactly only as it was started."
            )
    if progress.zero_stage and progress.world_size != expected.world_size:
        raise ValueError(
            f"{checkpoint} holds the optimizer in {progress.world_size} parts, one for each process of "
            f"DeepSpeed; there are {expected.world_size} processes now."
        )
    return progress


def restore_checkpoint(
    checkpoint: Path, accelerator: Accelerator, optimizer: Any, objective: Objective, progress: RunProgress
) -> None:
    """Take over everything but the model's weights, which must be loaded before `prepare`."""
    device = accelerator.device
    state = load_file(str(checkpoint / "objective.safetensors"))
    objective.load_state_dict({name: tensor.to(device) for name, tensor in state.items()})
    if progress.zero_stage:
        part = load_nested(checkpoint / f"optimizer-{accelerator.process_index:05d}")
        load_zero_optimizer_state(optimizer.optimizer, part)
    else:
        optimizer.load_state_dict(load_nested(checkpoint / "optimizer-00000"))
    random = checkpoint / f"random-{accelerator.process_index:05d}"
    # A run may go on with other processes when its updates stay the same; new ones have no state to go on
    # from.
    if random.with_name(random.name + ".json").is_file():
        restore_random_state(load_nested(random))
