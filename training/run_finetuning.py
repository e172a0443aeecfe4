r"""Train a word recogniser, from scratch or from a checkpoint, on rendered and real words.

On a CPU, in about a minute, a first look:
    python -m training.run_finetuning training/configs/default_recogniser/finetune.yaml \
        output_dir=runs/look schedule_by=time max_minutes=1
The bundled recogniser (its settings say for how long), and going on after a stop:
    python -m training.run_finetuning training/configs/default_recogniser/finetune.yaml resume=true
Your own words, from the bundled checkpoint, on one GPU:
    python -m training.run_finetuning training/configs/finetune_own_words.yaml \
        'train_sources={"folder:my_words": 1}' bf16=true
On several GPUs, of one machine or several (also with `accelerate launch`), or on several CPU processes:
    torchrun --nproc_per_node 4 -m training.run_finetuning training/configs/finetune_own_words.yaml \
        'train_sources={"folder:my_words": 1}' bf16=true
Further characters, while those that it reads are rehearsed with rendered words:
    python -m training.run_finetuning training/configs/extend_charset.yaml charset.add=€äöüßé

Settings: `training/arguments.py`; every key of the YAML file can be replaced by `key=value`. The run's folder
holds `log.jsonl`, TensorBoard files, `checkpoints/` for resuming, `best/` (best evaluation so far) and at the
end `final/`, ready for `pipeline("text-recognition", model=folder)`, with `training_record.json`. A run that
is told to stop (SIGTERM, Ctrl-C) saves first and ends with 128 + the signal's number; `torchrun` itself ends
with 1, and kills what has not ended after its `--shutdown_timeout`.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import set_seed
from transformers.utils import logging

from training.arguments import FinetuningArguments, RunArguments, parse_arguments
from training.evaluation import evaluate_sets
from training.finetuning_data import build_data
from training.process_exit import leave_process
from training.process_setup import draw_own_dropout, refuse_unshared_folder
from training.recogniser import build_recogniser
from training.run_state import MetricsLog, RunClock, checkpoints, machine_kind, whole_folder, write_json_file
from training.synchronized_batchnorm import synchronize_batchnorm
from training.trainer_arguments import library_arguments
from training.word_mixture import Share
from training.word_trainer import WordTrainer, trainable_count


def main(argv: Sequence[str]) -> int:
    """Arguments → seed → model → data → trainer → resume → loop → final folder; the exit status."""
    arguments = parse_arguments(argv)
    run, settings = arguments.run, arguments.optimisation
    library = library_arguments(arguments)
    share = Share(library.process_index, library.world_size)
    set_up_libraries(run)
    folder = Path(run.output_dir)
    checkpoint = choose_checkpoint(folder, run.resume)
    model, processor = build_recogniser(run, arguments.charset.charset_add)
    added = "" if model.charset_change is None else model.charset_change.added
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    if share.world_size > 1:
        synchronize_batchnorm(model)
    batches, sets, data_record = build_data(arguments, model, processor, library.device, added, share)
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if checkpoint is not None:
        progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    limit = None if settings.max_minutes is None else 60.0 * settings.max_minutes
    clock = RunClock(progress["seconds"], limit)
    log = None
    if share.rank == 0:
        log = MetricsLog(folder, run.tensorboard, after_step=int(progress["step"]))
    trainer = WordTrainer(model, arguments, library, processor, batches, sets, log, clock)
    if share.rank == 0:
        print_plan(arguments, trainer, data_record)
    else:
        draw_own_dropout(run.seed, share.rank)
    if checkpoint is not None:
        trainer.restore(checkpoint, progress)
    with trainer.flow.stop.watched():
        try:
            if not trainer.is_over():
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            batches.close()
        status = end_session(trainer, data_record)
        trainer.accelerator.end_training()
    return status


def set_up_libraries(run: RunArguments) -> None:
    """Seeds, threads and quietness of the libraries."""
    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    # Channels-last weights of 1x1 convolutions have two equal layouts; DDP remarks on it once per process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    set_seed(run.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    cv2.setNumThreads(0)
    # Gradients of CTC hold numbers so small that a CPU takes many times longer for them than for zeros.
    torch.set_flush_denormal(True)


def end_session(trainer: WordTrainer, data_record: dict[str, Any]) -> int:
    """Finish the run, or say how it goes on; the exit status."""
    if not trainer.flow.stopped:
        finish(trainer, data_record)
        status = 0
    else:
        status = trainer.flow.stop.exit_status()
        if trainer.metrics_log is not None:
            print(f"stopped by signal {status - 128} after saving; go on with resume=true", flush=True)
    if trainer.metrics_log is not None:
        trainer.metrics_log.close()
    return status


def choose_checkpoint(folder: Path, resume: bool) -> Path | None:
    """The newest checkpoint of a run that is to go on.

    Raises:
        ValueError: when a new run would write over an old one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(folder / "checkpoints")
    refuse_unshared_folder(folder, found[-1] if found else None)
    if found and not resume:
        raise ValueError(
            f"{folder} holds a run with checkpoint {found[-1].name}; set resume=true to go on, or choose "
            "another output_dir."
        )
    return found[-1] if found else None


def print_plan(arguments: FinetuningArguments, trainer: WordTrainer, data_record: dict[str, Any]) -> None:
    """Say what is about to happen, derived numbers with their arithmetic."""
    settings = arguments.optimisation
    model = trainer.recogniser
    total = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"model: {type(model).__name__}, {total:,} weights, "
        f"{trainable_count(model.parameters()):,} of them trained"
    )
    for source in data_record["sources"]:
        print(
            "source: " + "  ".join(f"{name} {value}" for name, value in source.items() if value is not None)
        )
    print_charset(data_record["charset"])
    print(f"evaluated words: {data_record['evaluated_words']}")
    per_update = trainer.words_per_update()
    print(
        f"words per update: {per_update} = {settings.batch_size} per batch x "
        f"{settings.gradient_accumulation_steps} batches x {trainer.args.world_size} processes"
    )
    if settings.max_steps is not None:
        print(
            f"words of the run: {settings.max_steps * per_update:,} = {settings.max_steps} updates "
            f"x {per_update}"
        )
    if settings.max_minutes is not None:
        print(f"time of the run: {settings.max_minutes} minutes, {trainer.clock.seconds() / 60:.1f} used")
    print(f"threads: {torch.get_num_threads()}  device: {trainer.args.device}", flush=True)


def print_charset(record: dict[str, Any]) -> None:
    """Say which characters are new, which were there, in how many words they stand, and what is at risk."""
    if record["present_already"]:
        print(f"in the charset already: {record['present_already']!r}")
    if record["added"]:
        counts = record["words_with_new_character"].items()
        print(
            "new characters: "
            + "  ".join(f"{character} in {count} words" for character, count in counts)
            + f"  rehearsal share {record['rehearsal_share']}"
        )
    for warning in record["warnings"]:
        print(f"warning: {warning}")


def finish(trainer: WordTrainer, data_record: dict[str, Any]) -> None:
    """Write `final/` (averaged weights if there are any), evaluate what was written, and write the record."""
    trainer.evaluate()
    counts = trainer.counts()
    if trainer.metrics_log is not None:
        write_final(trainer, trainer.metrics_log, {**data_record, "counts": counts})
    trainer.accelerator.wait_for_everyone()


def write_final(trainer: WordTrainer, log: MetricsLog, data_record: dict[str, Any]) -> None:
    """The first process's part of `finish`."""
    arguments, folder = trainer.arguments, trainer.folder / "final"
    model = trainer.recogniser
    with trainer.averaged(), whole_folder(folder) as staging:
        save_recogniser(model, trainer.processor, staging, arguments.run.half_precision)
    # What is stored is what is evaluated: weights as rounded in the file.
    stored = type(model).from_pretrained(folder, dtype=torch.float32).to(trainer.args.device)
    scores, _ = evaluate_sets(
        stored,
        trainer.processor,
        trainer.evaluation_sets,
        trainer.batches.normalise,
        trainer.args.device,
    )
    trainer.log({f"final_{name}": value for name, value in scores.items()})
    entries = log.entries()
    record = {
        "settings": arguments.flat(),
        "data": data_record,
        "steps": trainer.state.global_step,
        "complete": trainer.is_complete(),
        "images_seen": trainer.flow.images,
        "minutes": trainer.clock.seconds() / 60,
        "machine": machine_kind(),
        "processes": trainer.args.world_size,
        "final": scores,
        "best": trainer.best,
        "evaluations": [entry for entry in entries if "eval_word_accuracy" in entry],
    }
    write_json_file(folder / "training_record.json", record)
    if not trainer.is_complete():
        print("the time is used up before the schedule; go on with resume=true and a larger max_minutes")
    print(f"final model: {folder}", flush=True)


def save_recogniser(model: Any, processor: Any, folder: Path, half_precision: bool) -> None:
    """Save model and processor; `half_precision` stores float16 weights, which still load as float32."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    if half_precision:
        path = folder / "model.safetensors"
        tensors = load_file(str(path))
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.half()
                if not torch.isfinite(tensors[name]).all():
                    raise ValueError(f"weight {name!r} does not fit into float16; set half_precision=false.")
        save_file(tensors, str(path), metadata={"format": "pt"})


if __name__ == "__main__":
    try:
        exit_status = main(sys.argv[1:])
    except (ValueError, StrictDataclassError) as error:
        print(f"error: {error}", file=sys.stderr)
        exit_status = 1
    leave_process(exit_status)
