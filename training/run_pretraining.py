"""Pretrain an encoder without labels: RCMSTR or PerSec.

On a CPU, in about a minute, a first look (CONFIG is a `pretrain.yaml` of training/configs):
    python -m training.run_pretraining CONFIG output_dir=runs/look max_steps=20 batch_size=4
On one GPU or several, of one machine or several (`accelerate config` once):
    accelerate launch -m training.run_pretraining CONFIG bf16=true
With DeepSpeed, and on several CPU processes:
    accelerate launch --config_file training/configs/accelerate_deepspeed.yaml -m training.run_pretraining …
    torchrun --nproc_per_node 2 -m training.run_pretraining … deepspeed=training/configs/deepspeed_zero2.json

Settings: `training/pretraining_arguments.py`; every key of the YAML file can be replaced by `key=value`. The
run's folder holds `log.jsonl`, TensorBoard files, `checkpoints/` for `resume=true`, and at the end `final/`,
which `AutoModel`, `RCMSTRForTextRecognition` and the like open with `from_pretrained`, and from which
pretraining can go on (`model=…/final`). A run that is told to stop (SIGTERM, Ctrl-C) saves first and ends
with 128 + the signal's number; `torchrun` itself ends with 1, and kills what has not ended after its
`--shutdown_timeout`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers.utils import logging

from training.arguments import parse_grouped_arguments
from training.collation import WordResizer
from training.draw_pretraining import draw_reconstructions
from training.objectives import Objective, make_objective
from training.online_probe import OnlineProbe
from training.optimization import make_optimizer, parameter_groups
from training.pretraining_arguments import PretrainingArguments, PretrainingOptimisationArguments
from training.pretraining_batches import ViewChunkMaker, ViewNormaliser, stream_batches
from training.pretraining_checkpoint import (
    RunProgress,
    read_progress,
    restore_checkpoint,
    save_pretrained_model,
)
from training.pretraining_loop import PretrainingLoop, autocast, learning_rate_at
from training.pretraining_model import build_pretraining_model, load_weights, model_family
from training.process_exit import leave_process
from training.process_setup import draw_own_dropout, make_accelerator, refuse_unshared_folder, zero_stage
from training.run_state import (
    MetricsLog,
    checkpoints,
    machine_kind,
    remove_unfinished,
    shared_whole_folder,
    write_json_file,
)
from training.synchronized_batchnorm import synchronize_batchnorm
from training.training_batches import TrainingBatches
from training.word_mixture import MixturePart, Share, WordMixture
from training.word_sources import open_source

PICTURE_WORDS = 8


def main(argv: Sequence[str]) -> int:
    """Arguments → seed → model → objective → data → prepare → resume → loop → final; the exit status."""
    arguments = parse_grouped_arguments(argv, PretrainingArguments)
    run, settings = arguments.run, arguments.optimisation
    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    # Channels-last weights of 1x1 convolutions have two equal layouts; DDP remarks on it once per process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    accelerator = make_accelerator(settings, model_family(run.model))
    set_seed(run.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    cv2.setNumThreads(0)
    expected = run_arithmetic(settings, accelerator)
    checkpoint = find_checkpoint(accelerator, run.output_dir, run.resume)
    progress = read_progress(checkpoint, expected) if checkpoint is not None else expected
    model, image_processor = build_pretraining_model(run, arguments.data.processor)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    draw_own_dropout(run.seed, accelerator.process_index)
    place_model(model, settings, accelerator)
    slots = settings.gradient_accumulation_steps * accelerator.num_processes
    objective = make_objective(
        model,
        arguments.objective,
        run.seed,
        settings.batch_size,
        slots,
        settings.batchnorm == "shuffled",
        partial(autocast, accelerator.device, settings.bf16),
    )
    batches = build_batches(arguments, image_processor, objective, accelerator)
    batches.start = progress.step * settings.gradient_accumulation_steps
    batches.counts.update(progress.counts)
    print_overview(arguments, accelerator, model, progress)
    probe = make_probe(arguments, accelerator, model, image_processor)
    if settings.compile_backend is not None:
        model.compile(backend=settings.compile_backend)
    optimizer = build_optimizer(model, settings, progress.words_per_update)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    if checkpoint is not None:
        restore_checkpoint(checkpoint, accelerator, optimizer, objective, progress)
        accelerator.print(f"resuming at update {progress.step} from {checkpoint}")
    # A checkpoint that was written by other processes, under the same updates, is this session's from now on.
    progress.world_size = accelerator.num_processes
    loop = PretrainingLoop(
        arguments, accelerator, prepared, optimizer, objective, batches, image_processor, progress
    )
    loop.probe = probe
    if accelerator.is_main_process:
        loop.log = MetricsLog(Path(run.output_dir), run.tensorboard, after_step=progress.step)
        loop.picture = partial(draw_into_log, loop.log, image_processor) if run.picture_steps else None
    with loop.stop.watched():
        finished = loop.run()
        if finished:
            save_final(loop, arguments)
        else:
            accelerator.print("stopped after saving; go on with resume=true")
        if loop.log is not None:
            loop.log.close()
        accelerator.end_training()
    return 0 if finished else loop.stop.exit_status()


def run_arithmetic(settings: PretrainingOptimisationArguments, accelerator: Accelerator) -> RunProgress:
    """The numbers that decide whether a checkpoint belongs to this session."""
    slots = settings.gradient_accumulation_steps * accelerator.num_processes
    return RunProgress(
        words_per_update=settings.batch_size * slots,
        batches_per_update=settings.gradient_accumulation_steps,
        world_size=accelerator.num_processes,
        zero_stage=zero_stage(accelerator),
    )


def find_checkpoint(accelerator: Accelerator, output_dir: str, resume: bool) -> Path | None:
    """The newest checkpoint of a run that is to go on; clears away what killed sessions left.

    Raises:
        ValueError: when a new run would write over an old one.
    """
    folder = Path(output_dir) / "checkpoints"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
    accelerator.wait_for_everyone()
    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(folder)
    refuse_unshared_folder(folder, found[-1] if found else None)
    if found and not resume:
        raise ValueError(
            f"{output_dir} holds a run with {found[-1].name}; set resume=true to go on, or choose another "
            "output_dir."
        )
    return found[-1] if found else None


def place_model(model: Any, settings: PretrainingOptimisationArguments, accelerator: Accelerator) -> None:
    """Bring a model to its device, memory layout, batch norm and checkpointing.

    Raises:
        ValueError: when the model has no layers whose activations can be left out.
    """
    if settings.activation_checkpointing:
        if model.config.encoder_type != "vit":
            raise ValueError(
                "`activation_checkpointing` is for the vit encoder: computing a layer of the cnn twice would "
                "count its batch norm twice. Use smaller batches and `gradient_accumulation_steps` instead."
            )
        model.activation_checkpointing_enable()
    if settings.batchnorm == "synchronized" and accelerator.num_processes > 1:
        synchronize_batchnorm(model)
    if settings.channels_last and accelerator.distributed_type != DistributedType.DEEPSPEED:
        # DeepSpeed lays weights end to end and refuses those that are strided; images stay channels-last.
        model.to(memory_format=torch.channels_last)
    model.to(accelerator.device)


def build_batches(
    arguments: PretrainingArguments, image_processor: Any, objective: Objective, accelerator: Accelerator
) -> TrainingBatches:
    """Open the sources and make this process's stream of batches."""
    data, run, settings = arguments.data, arguments.run, arguments.optimisation
    parts = []
    for name, weight in data.train_sources.items():
        source = open_source(name, labelled=False)
        rows = None if source.size is None else np.arange(source.size)
        parts.append(MixturePart(source, float(weight), rows))
        accelerator.print(f"source: {name}  words {source.size or 'without end'}  weight {weight}")
    maker = ViewChunkMaker(
        WordMixture(parts, run.seed),
        WordResizer(image_processor),
        settings.batch_size,
        objective.num_views,
        data.views,
        run.seed,
        Share(accelerator.process_index, accelerator.num_processes),
        data.bucket_batches,
    )
    normalise = ViewNormaliser(image_processor, settings.channels_last)
    return stream_batches(maker, normalise, accelerator.device, data.data_workers, run.worker_niceness)


def build_optimizer(
    model: Any, settings: PretrainingOptimisationArguments, words_per_update: int
) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups."""
    groups = parameter_groups(
        model, float(settings.weight_decay), float(settings.layer_decay), settings.decay_everything
    )
    rate = learning_rate_at(settings, words_per_update, 0)
    if settings.optimizer == "sgd":
        return make_optimizer("sgd", groups, rate, momentum=float(settings.sgd_momentum))
    betas = (float(settings.adam_beta1), float(settings.adam_beta2))
    return make_optimizer("adamw", groups, rate, betas=betas, eps=float(settings.adam_epsilon))


def make_probe(
    arguments: PretrainingArguments, accelerator: Accelerator, model: Any, image_processor: Any
) -> Any:
    """The online probe of the run as a function of nothing, or None."""
    if arguments.probe.probe_source is None:
        return None
    probe = OnlineProbe(arguments.probe, model.config, image_processor, arguments.run.seed)
    return partial(probe, model.model, accelerator.device, accelerator.is_main_process)


def draw_into_log(
    log: MetricsLog, image_processor: Any, outputs: Any, batch: dict[str, Tensor], step: int
) -> None:
    """Put masked, reconstructed and original words into TensorBoard, where the model reconstructs."""
    reconstruction = getattr(outputs, "reconstruction", None)
    if reconstruction is None or log.writer is None:
        return
    count = min(PICTURE_WORDS, len(reconstruction))
    picture = draw_reconstructions(
        batch["pixel_values"][:count], reconstruction[:count], outputs.visible[:count], image_processor
    )
    log.writer.add_image("masked, reconstructed, original", picture, step, dataformats="HWC")


def print_overview(
    arguments: PretrainingArguments, accelerator: Accelerator, model: Any, progress: RunProgress
) -> None:
    """Say what is about to happen, derived numbers with their arithmetic."""
    settings = arguments.optimisation
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    words = progress.words_per_update
    accelerator.print(f"model: {type(model).__name__}, {total:,} weights, {trained:,} of them trained")
    accelerator.print(
        f"words per update: {words} = {settings.batch_size} per batch x "
        f"{settings.gradient_accumulation_steps} batches x {accelerator.num_processes} processes"
    )
    accelerator.print(
        f"words of the run: {settings.max_steps * words:,} = {settings.max_steps} updates x {words}"
    )
    peak = learning_rate_at(settings, words, settings.warmup_steps)
    scaled = settings.learning_rate_words
    source = f" = {settings.learning_rate} x {words} / {scaled} words" if scaled else ""
    accelerator.print(
        f"learning rate: {peak:.6g}{source}, {settings.schedule} after {settings.warmup_steps} updates"
    )
    accelerator.print(
        f"processes: {accelerator.distributed_type}, ZeRO stage {progress.zero_stage}, {accelerator.device}"
    )


def save_final(loop: PretrainingLoop, arguments: PretrainingArguments) -> None:
    """Write `final/`: the model, its image processor and a record of the run."""
    accelerator, folder = loop.accelerator, loop.folder / "final"
    weights = accelerator.get_state_dict(loop.model)
    with shared_whole_folder(folder, accelerator.is_main_process, accelerator.wait_for_everyone) as staging:
        if accelerator.is_main_process:
            save_pretrained_model(
                staging, accelerator.unwrap_model(loop.model), weights, loop.image_processor
            )
            entries = loop.log.entries() if loop.log is not None else []
            record = {
                "settings": arguments.flat(),
                "steps": loop.progress.step,
                "words_per_update": loop.progress.words_per_update,
                "images_seen": loop.progress.images,
                "counts": loop.progress.counts,
                "minutes": loop.clock.seconds() / 60,
                "machine": machine_kind(),
                "processes": loop.progress.world_size,
                "zero_stage": loop.progress.zero_stage,
                "last": next((entry for entry in reversed(entries) if "loss" in entry), None),
                "probes": [entry for entry in entries if "probe/word_accuracy" in entry],
            }
            write_json_file(staging / "training_record.json", record)
    accelerator.print(f"final model: {folder}")


if __name__ == "__main__":
    try:
        exit_status = main(sys.argv[1:])
    except (ValueError, StrictDataclassError) as error:
        print(f"error: {error}", file=sys.stderr)
        exit_status = 1
    leave_process(exit_status)
