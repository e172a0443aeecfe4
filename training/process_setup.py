"""The processes of a run: Accelerate, with DeepSpeed or without, on GPUs or on CPU with gloo.

What can go wrong silently is refused here. Under `torchrun` a DeepSpeed configuration is named by the setting
`deepspeed`; under `accelerate launch` by the launcher's own file. Several CPU processes are started with
`torchrun`: `accelerate launch --cpu --num_processes 2` starts one.
"""

from __future__ import annotations

import json
import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from training.objectives import derive_seed
from training.pretraining_arguments import PretrainingOptimisationArguments

DROPOUT_STREAM = 15
# What the first process does alone, evaluations above all, while the others wait.
LONGEST_WAIT = timedelta(hours=2)

# What DeepSpeed must not do, because the run does it: the optimizer, its rates and its precision.
REFUSED_SECTIONS = {
    "optimizer": "the run's `optimizer` and `learning_rate` decide",
    "scheduler": "the run's `schedule` decides",
    "fp16": "set `bf16: true` in the run's settings",
    "bf16": "it casts the weights to bfloat16; set `bf16: true` in the run's settings, which does not",
}


def make_accelerator(settings: PretrainingOptimisationArguments, family: str) -> Accelerator:
    """Join the run's processes.

    Args:
        settings: of the run.
        family: model type, "rcmstr" or "persec".

    Raises:
        ValueError: for a DeepSpeed configuration that cannot be right for this run, or a launcher's setting
            that contradicts the run's.
        RuntimeError: when the processes did not find each other.
    """
    refuse_launched_precision(settings.bf16)
    config = deepspeed_config(settings, family)
    handlers: list[Any] = []
    expected = started_processes()
    tell_deepspeed_of_cpu()
    if runs_on_cpu() and (expected > 1 or config is not None):
        # Without this, DeepSpeed on CPU leaves every process alone with `num_processes == 1`.
        handlers.append(InitProcessGroupKwargs(backend="gloo", timeout=LONGEST_WAIT))
    elif expected > 1:
        handlers.append(InitProcessGroupKwargs(timeout=LONGEST_WAIT))
    accelerator = Accelerator(
        # With `cpu=True`, DeepSpeed would be ignored.
        cpu=config is None and runs_on_cpu(),
        mixed_precision="no",  # the run autocasts itself, alike with and without DeepSpeed
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=settings.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        deepspeed_plugin=None
        if config is None
        else DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False),
        kwargs_handlers=handlers,
        step_scheduler_with_optimizer=False,
    )
    # Every process builds the model whole, from a file or a folder, and `prepare` divides it; under ZeRO-3
    # the library would already divide what it loads, and exact weights of a checkpoint could not be loaded
    # into that.
    unset_hf_deepspeed_config()
    refuse_lost_processes(accelerator.num_processes)
    return accelerator


def tell_deepspeed_of_cpu() -> None:
    """Where it is installed and there is no GPU, DeepSpeed would find out by itself, and warn."""
    if runs_on_cpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def runs_on_cpu() -> bool:
    """Whether there is no GPU, or the launcher says not to use it."""
    return not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")


def started_processes() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agreement_steps(device: torch.device) -> int:
    """Updates between two decisions by clock or signal, which all processes must take alike.

    To hear of them, a GPU must end the update that it is at; elsewhere that costs nothing, and a stop need
    not wait for ten slow updates.
    """
    return 1 if device.type == "cpu" else 10


def draw_own_dropout(seed: int, rank: int) -> None:
    """Seed this process's random draws from here on, dropout's above all, apart from the others'."""
    torch.manual_seed(derive_seed(seed, DROPOUT_STREAM, rank))


def refuse_launched_precision(bf16: bool) -> None:
    """Raise a ValueError when the launcher asks for a precision that the run's setting `bf16` does not."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched == "fp16" or (launched == "bf16" and not bf16):
        raise ValueError(
            f"the launcher asks for mixed precision {launched!r}: set `bf16: true` in the run's settings and "
            "`mixed_precision: 'no'` in the launcher's."
        )


def refuse_lost_processes(found: int) -> None:
    """Raise a RuntimeError when fewer processes found each other than were started."""
    if found != started_processes():
        raise RuntimeError(
            f"{started_processes()} processes were started and {found} found each other; start CPU processes "
            "with `torchrun --nproc_per_node N -m …`."
        )


def deepspeed_config(settings: PretrainingOptimisationArguments, family: str) -> dict[str, Any] | None:
    """The run's DeepSpeed configuration with what its settings decide filled in; None without DeepSpeed.

    Raises:
        ValueError: when the file is missing, sets what the run decides, or names a stage that cannot be
            right.
    """
    place = settings.deepspeed
    if place is None and os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        place = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        if place in (None, "", "none"):
            raise ValueError(
                "the launcher uses DeepSpeed without a configuration file; name one, for example "
                "training/configs/deepspeed_zero2.json, as `deepspeed_config_file`."
            )
    if place is None:
        return None
    if not Path(place).is_file():
        raise ValueError(f"`deepspeed`: the file {place!r} does not exist.")
    config = json.loads(Path(place).read_text(encoding="utf-8"))
    for section, remedy in REFUSED_SECTIONS.items():
        if section in config and config[section] != {"enabled": False}:
            raise ValueError(f"{place}: leave out the section {section!r}: {remedy}.")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage == 3 and family == "rcmstr":
        raise ValueError(
            f"{place}: ZeRO stage 3 and RCMSTR do not go together. The momentum encoder is a float32 copy of "
            "all weights on every process and follows them at every update, so weights that are spread over "
            "the processes would be gathered whole each time, and nothing would be saved. Use stage 1 or 2, "
            "for example training/configs/deepspeed_zero2.json."
        )
    return config | {
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "gradient_clipping": float(settings.max_grad_norm),
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": settings.bf16, "dtype": "bfloat16"},
    }


def zero_stage(accelerator: Accelerator) -> int:
    """The ZeRO stage of the run; 0 without DeepSpeed."""
    plugin = (
        accelerator.state.deepspeed_plugin
        if accelerator.distributed_type == DistributedType.DEEPSPEED
        else None
    )
    return 0 if plugin is None else int(plugin.zero_stage)


def refuse_unshared_folder(folder: Path, checkpoint: Path | None) -> None:
    """See that all processes have the run's folder and start from the same checkpoint; all must ask.

    Args:
        folder: of the run; it exists.
        checkpoint: what this process would go on from.

    Raises:
        ValueError: on every process, when one of them does not see what the first one sees.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    (name,) = broadcast_object_list([f".{uuid.uuid4().hex}.unfinished"])
    marker = folder / name
    if state.is_main_process:
        marker.touch()
    state.wait_for_everyone()
    seen = gather_object([(marker.exists(), "none" if checkpoint is None else checkpoint.name)])
    if state.is_main_process:
        marker.unlink()
    if not all(found for found, _ in seen):
        raise ValueError(f"{folder} must lie on a file system that all processes of the run share.")
    names = sorted({name for _, name in seen})
    if len(names) > 1:
        raise ValueError(
            f"the processes see different newest checkpoints in {folder}: {', '.join(names)}; start again "
            "when its file system shows all of them the same."
        )
