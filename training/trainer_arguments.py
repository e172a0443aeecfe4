"""The library's settings for a fine-tuning run, and the processes that it joins."""

from __future__ import annotations

import os

from accelerate import PartialState
from transformers import TrainingArguments

from training.arguments import FinetuningArguments
from training.process_setup import (
    LONGEST_WAIT,
    refuse_launched_precision,
    refuse_lost_processes,
    runs_on_cpu,
    started_processes,
    tell_deepspeed_of_cpu,
)


def library_arguments(arguments: FinetuningArguments) -> TrainingArguments:
    """The library's settings for this run; everything that this project does itself is turned off there.

    Making them joins the processes that `torchrun` or `accelerate launch` started.

    Raises:
        ValueError: for a launcher's setting that does not go with the run.
        RuntimeError: when the processes did not find each other.
    """
    run, settings = arguments.run, arguments.optimisation
    refuse_launched_precision(settings.bf16)
    for name in ("DEEPSPEED", "FSDP"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true"):
            raise ValueError(
                f"the launcher uses {name}, and recognisers are so small that every process holds one whole; "
                "use a launcher configuration without it, or `torchrun`."
            )
    tell_deepspeed_of_cpu()
    use_cpu = runs_on_cpu()
    if use_cpu and started_processes() > 1:
        # Here, as the library would join them with a shorter patience.
        PartialState(cpu=True, backend="gloo", timeout=LONGEST_WAIT)
    made = TrainingArguments(
        output_dir=run.output_dir,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        # A run by the clock has no number of updates; the loop still wants one.
        max_steps=settings.max_steps or 1_000_000_000,
        max_grad_norm=float(settings.max_grad_norm),
        bf16=settings.bf16,
        logging_strategy="steps",
        logging_steps=run.log_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and started_processes() > 1 else None,
        ddp_timeout=int(LONGEST_WAIT.total_seconds()),
        # Every weight that is trained takes part in every batch.
        ddp_find_unused_parameters=False,
        seed=run.seed,
    )
    refuse_lost_processes(made.world_size)
    # One process trains on one GPU. On several, the library would divide each batch among threads.
    made._n_gpu = min(made.n_gpu, 1)
    return made
