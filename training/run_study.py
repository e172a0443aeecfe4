"""Compare ways of pretraining: pretrain every row with every seed, freeze the encoders, train heads on them.

    python -m training.run_study training/configs/study/rcmstr.yaml
    python -m training.run_study training/configs/study/rcmstr.yaml jobs=2 output_dir=runs/study

The rows are those of the papers' ablations, in small: RCLSTR's Table 1, RCMSTR's masks and decoupling, and
PerSec's perceivers. All of them see the same drawn words for the same number of updates, and are judged by a
CTC and an attention head that learn from the same labelled words while the encoder stays as it is.
`results.json` gets every number, `study.md` a table and `study.png` a plot (`report_study`). A study that was
stopped goes on where it was: rows that are done are not done again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel

from training.arguments import parse_grouped_arguments, read_settings
from training.collation import UNREADABLE
from training.online_probe import OnlineProbe
from training.pretraining_arguments import PROBE_HEADS, PretrainingRunArguments, ProbeArguments
from training.pretraining_model import build_pretraining_model
from training.render_words import write_shard
from training.report_study import write_report
from training.run_pretraining import main as run_pretraining
from training.run_state import machine_kind, write_json_file
from training.study_arguments import StudyArguments
from training.word_sources import RenderedSource, open_source

SHARD_WORDS = 5000
REFRESH_BATCH = 64
POOLS = 5


def main(argv: Sequence[str]) -> int:
    """Arguments → words → rows and seeds → report; the exit status is 1 when a run failed."""
    arguments = parse_grouped_arguments(argv, StudyArguments)
    folder = Path(arguments.run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    keep_to_settings(folder / "study.json", arguments)
    draw_words(arguments, folder / "words")
    # Seed by seed, so that a study that is stopped early has all rows.
    runs = [
        (name, seed)
        for seed in arguments.rows.seeds or [0, 1, 2]
        for name in arguments.rows.rows
        if not result_file(folder, name, seed).is_file()
    ]
    failed = run_all(arguments, runs)
    found = [json.loads(file.read_text("utf-8")) for file in sorted((folder / "results").glob("*.json"))]
    results = [result for result in found if result["row"] in arguments.rows.rows]
    if results:
        write_report(folder, arguments.flat(), results, machine_kind())
        print(f"{folder / 'study.md'}: {len(results)} results")
    for name, seed, error in failed:
        print(f"failed: {name}, seed {seed}: {error}", file=sys.stderr)
    return int(bool(failed))


def run_all(arguments: StudyArguments, runs: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """Run rows, `jobs` of them side by side; returns those that failed and why.

    A process that something ends from outside takes its pool with it; what was not done then gets a new one.
    """
    left, failed = list(runs), []
    for _ in range(POOLS):
        broken = []
        with ProcessPoolExecutor(arguments.run.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
            started = {pool.submit(run_row, arguments, name, seed): (name, seed) for name, seed in left}
            for done in as_completed(started):
                name, seed = started[done]
                error = done.exception()
                if isinstance(error, BrokenProcessPool):
                    broken.append((name, seed, str(error)))
                elif error is not None:
                    failed.append((name, seed, str(error)))
                else:
                    numbers = done.result()["heads"]
                    read = "  ".join(
                        f"{head} {100 * numbers[head]['word_accuracy']:.1f} %" for head in numbers
                    )
                    print(f"{name}, seed {seed}: {read}", flush=True)
        left = [run for run in left if run in {(name, seed) for name, seed, _ in broken}]
        if not left:
            return failed
    return failed + broken


def run_row(arguments: StudyArguments, name: str, seed: int) -> dict[str, Any]:
    """Do one row with one seed.

    Raises:
        RuntimeError: for whatever went wrong; not every exception finds its way out of a process.
    """
    try:
        return pretrain_and_read(arguments, name, seed)
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def pretrain_and_read(arguments: StudyArguments, name: str, seed: int) -> dict[str, Any]:
    """Pretrain one row with one seed, read from its frozen encoder, and write the result."""
    torch.set_num_threads(arguments.run.threads)
    torch.set_flush_denormal(True)
    cv2.setNumThreads(0)
    folder = Path(arguments.run.output_dir)
    place = folder / "runs" / name / f"seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    with (
        (place / "output.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        encoder, image_processor, record = pretrained_encoder(arguments, name, seed, place)
        words = unlabelled_words(folder / "words")
        refresh_batchnorm(encoder, image_processor, words, arguments.heads.refresh_words)
        result = {
            "row": name,
            "seed": seed,
            "pretraining": record,
            "heads": read_from(arguments, encoder, image_processor, folder / "words", seed),
        }
    write_json_file(result_file(folder, name, seed), result)
    return result


def pretrained_encoder(
    arguments: StudyArguments, name: str, seed: int, place: Path
) -> tuple[nn.Module, Any, dict[str, Any] | None]:
    """The encoder of a row, its image processor, and what the record says; pretrains it if needed."""
    row = arguments.rows.rows[name]
    settings = {
        **(arguments.rows.pretraining_settings or {}),
        **row.get("settings", {}),
        "output_dir": str(place),
        "model": row["model"],
        "preset": row.get("preset"),
        "model_settings": row.get("model_settings"),
        "train_sources": {unlabelled_words(Path(arguments.run.output_dir) / "words"): 1},
        "seed": seed,
        "threads": arguments.run.threads,
    }
    if not row.get("pretrained", True):
        set_seed(seed)
        model, image_processor = build_pretraining_model(
            PretrainingRunArguments(
                output_dir=str(place),
                model=row["model"],
                model_settings=row.get("model_settings"),
                preset=row.get("preset"),
                seed=seed,
            ),
            (read_settings(arguments.rows.pretraining) | settings).get("processor"),
        )
        return model.model, image_processor, None
    overrides = [f"{key}={as_yaml(value)}" for key, value in settings.items()]
    if not (place / "final").is_dir():
        status = run_pretraining([arguments.rows.pretraining, *overrides, "resume=true"])
        if status:
            raise InterruptedError(
                f"the pretraining ended with status {status}; run the study again to go on."
            )
    _, image_processor = build_pretraining_model(
        PretrainingRunArguments(output_dir=str(place), model=str(place / "final")), None
    )
    record = json.loads((place / "final" / "training_record.json").read_text("utf-8"))
    kept = {key: record[key] for key in ("steps", "images_seen", "minutes", "last")}
    return AutoModel.from_pretrained(place / "final", dtype="float32"), image_processor, kept


def as_yaml(value: Any) -> str:
    """A value as one line of YAML, as `key=value` wants it."""
    return yaml.safe_dump(value, default_flow_style=True, width=1 << 20).removesuffix("...\n").strip()


def read_from(
    arguments: StudyArguments, encoder: nn.Module, image_processor: Any, words: Path, seed: int
) -> dict[str, dict[str, float]]:
    """What each head reads from a frozen encoder."""
    results = {}
    for head in arguments.heads.heads or PROBE_HEADS:
        settings = ProbeArguments(
            probe_source=f"parquet:{words / 'labelled.parquet'}",
            probe_head=head,
            probe_train_words=arguments.words.labelled_words,
            probe_eval_words=arguments.words.test_words,
            probe_updates=arguments.heads.head_updates,
            probe_charset=arguments.heads.head_charset,
        )
        probe = OnlineProbe(settings, encoder.config, image_processor, seed)
        numbers = probe(encoder, torch.device("cpu"))
        results[head] = {key.removeprefix("probe/"): value for key, value in numbers.items()}
    return results


@torch.no_grad()
def refresh_batchnorm(encoder: nn.Module, image_processor: Any, source: str, count: int) -> None:
    """Take the running statistics of an encoder's batch norms anew: plain means over batches of whole words.

    Args:
        encoder: left in evaluation mode.
        image_processor: of it.
        source: words without labels.
        count: words; 0 leaves the statistics as they are.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    encoder.train()
    momenta = [norm.momentum for norm in norms]
    if norms and count:
        for norm in norms:
            norm.reset_running_stats()
        images = open_source(source)
        usable = []
        for index in range(min(count, images.size or count)):
            with contextlib.suppress(*UNREADABLE):
                image = images.row(index)["image"]
                image_processor(image)
                usable.append(image)
        for number, start in enumerate(range(0, len(usable), REFRESH_BATCH), 1):
            for norm in norms:
                norm.momentum = 1 / number
            batch = image_processor(usable[start : start + REFRESH_BATCH], return_tensors="pt")
            encoder(batch["pixel_values"], pixel_mask=batch.get("pixel_mask"))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


def draw_words(arguments: StudyArguments, folder: Path) -> None:
    """Draw the study's words into parquet files; files that are there are kept."""
    settings = arguments.words
    unlabelled, labelled = settings.unlabelled_words, settings.labelled_words + settings.test_words
    # Words that fit no head are passed over, so a few more are drawn.
    spare = labelled // 10 + 20
    jobs = [
        (
            folder / f"unlabelled-{start // SHARD_WORDS:03d}.parquet",
            start,
            min(start + SHARD_WORDS, unlabelled),
        )
        for start in range(0, unlabelled, SHARD_WORDS)
    ]
    jobs.append((folder / "labelled.parquet", unlabelled, unlabelled + labelled + spare))
    missing = [job for job in jobs if not job[0].is_file()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(f"rendered:{settings.rendering}")
    assert isinstance(source, RenderedSource)
    for path, start, stop in missing:
        write_shard(source.renderer, str(path), start, stop)
        print(f"drew {stop - start} words into {path}", flush=True)


def unlabelled_words(folder: Path) -> str:
    """The source of the study's words for pretraining."""
    return f"parquet:{folder / 'unlabelled-*.parquet'}"


def result_file(folder: Path, name: str, seed: int) -> Path:
    """Where the result of a row and a seed lies."""
    return folder / "results" / f"{name}-seed-{seed}.json"


def keep_to_settings(path: Path, arguments: StudyArguments) -> None:
    """Remember a study's settings, or compare them with those it began with.

    Raises:
        ValueError: when something changed that decides the results.
    """
    own = {
        "rows": arguments.rows.rows,
        "pretraining": read_settings(arguments.rows.pretraining)
        | (arguments.rows.pretraining_settings or {}),
        "words": asdict(arguments.words),
        "heads": asdict(arguments.heads),
    }
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changed = [key for key in own if key != "rows" and json.loads(json.dumps(own[key])) != before[key]]
        rows = before["rows"]
        changed += [f"rows.{name}" for name, row in own["rows"].items() if rows.get(name, row) != row]
        if changed:
            raise ValueError(
                f"{path.parent} holds a study with other settings ({', '.join(changed)}); choose another "
                "`output_dir`, or go on with the settings that it has."
            )
        own["rows"] = rows | own["rows"]
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "results").mkdir(exist_ok=True)
    write_json_file(path, own)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
