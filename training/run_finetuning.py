r"""Train a word recogniser, from scratch or from a checkpoint, on rendered and real words.

On a CPU, in about a minute, a first look:
    python -m training.run_finetuning training/configs/default_recogniser/finetune.yaml \
        output_dir=runs/look schedule_by=time max_minutes=1
The bundled recogniser (its settings say for how long), and going on after a stop:
    python -m training.run_finetuning training/configs/default_recogniser/finetune.yaml resume=true
Your own words, from the bundled checkpoint, on one GPU:
    python -m training.run_finetuning training/configs/finetune_own_words.yaml \
        'train_sources={"folder:my_words": 1}' bf16=true
Further characters, while those that it reads are rehearsed with rendered words:
    python -m training.run_finetuning training/configs/extend_charset.yaml charset.add=€äöüßé

Settings: `training/arguments.py`; every key of the YAML file can be replaced by `key=value`. The run's folder
holds `log.jsonl`, TensorBoard files, `checkpoints/` for resuming, `best/` (best evaluation so far) and at the
end `final/`, ready for `pipeline("text-recognition", model=folder)`, with `training_record.json`. A run that
is told to stop (SIGTERM, Ctrl-C) saves first and ends with 128 + the signal's number.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import set_seed
from transformers.utils import logging

from training.arguments import FinetuningArguments, parse_arguments
from training.evaluation import evaluate_sets
from training.finetuning_data import build_data
from training.recogniser import build_recogniser
from training.run_state import MetricsLog, RunClock, checkpoints, machine_kind, whole_folder, write_json_file
from training.word_trainer import WordTrainer, trainable_count


def main(argv: Sequence[str]) -> int:
    """Arguments → seed → model → data → trainer → resume → loop → final folder; the exit status."""
    arguments = parse_arguments(argv)
    run, settings = arguments.run, arguments.optimisation
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fine-tuning runs in one process; start it without torchrun or accelerate launch.")
    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    set_seed(run.seed)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    cv2.setNumThreads(0)
    # Gradients of CTC hold numbers so small that a CPU takes many times longer for them than for zeros.
    torch.set_flush_denormal(True)
    folder = Path(run.output_dir)
    checkpoint = choose_checkpoint(folder, run.resume)
    model, processor = build_recogniser(run, arguments.charset.charset_add)
    added = "" if model.charset_change is None else model.charset_change.added
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    batches, sets, data_record = build_data(arguments, model, processor, added)
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if checkpoint is not None:
        progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    limit = None if settings.max_minutes is None else 60.0 * settings.max_minutes
    clock = RunClock(progress["seconds"], limit)
    log = MetricsLog(folder, run.tensorboard, after_step=int(progress["step"]))
    trainer = WordTrainer(model, arguments, processor, batches, sets, log, clock)
    print_plan(arguments, trainer, data_record)
    if checkpoint is not None:
        trainer.restore(checkpoint, progress)
        print(f"resuming at update {progress['step']} from {checkpoint}", flush=True)
    trainer.flow.watch_signals()
    try:
        if not trainer.is_over():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        batches.close()
    if trainer.flow.signal is not None:
        print(f"stopped by signal {trainer.flow.signal} after saving; go on with resume=true", flush=True)
        log.close()
        return 128 + trainer.flow.signal
    finish(trainer, data_record)
    log.close()
    return 0


def choose_checkpoint(folder: Path, resume: bool) -> Path | None:
    """The newest checkpoint of a run that is to go on.

    Raises:
        ValueError: when a new run would write over an old one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoints(folder / "checkpoints")
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
    per_update = settings.batch_size * settings.gradient_accumulation_steps
    print(
        f"words per update: {per_update} = {settings.batch_size} per batch x "
        f"{settings.gradient_accumulation_steps} batches"
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
    arguments, folder = trainer.arguments, trainer.folder / "final"
    trainer.evaluate()
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
    entries = trainer.metrics_log.entries()
    record = {
        "settings": arguments.flat(),
        "data": {**data_record, "counts": dict(trainer.batches.counts)},
        "steps": trainer.state.global_step,
        "complete": trainer.is_complete(),
        "images_seen": trainer.flow.images,
        "minutes": trainer.clock.seconds() / 60,
        "machine": machine_kind(),
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
        sys.exit(main(sys.argv[1:]))
    except (ValueError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
