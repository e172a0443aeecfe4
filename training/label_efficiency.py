r"""How many labels does it take? Word accuracy over number of labelled words, from several starting points.

On your own words, hours on two cores, minutes on a GPU (its first words say how long):
    python -m training.label_efficiency training/configs/label_efficiency.yaml source=folder:my_words \
        'starting_points={rcmstr: runs/rcmstr/final, persec: runs/persec/final, scratch: my_model.json}'
Only the head is trained, the encoder stays as it was pretrained:
    python -m training.label_efficiency training/configs/label_efficiency.yaml freeze_encoder=true \
        output_dir=runs/label_efficiency_frozen

Every starting point is trained with every number of labels and every seed by `run_finetuning`, with the same
number of updates, and reads the same test words, which never train. The folder gets `results.json`,
`label_efficiency.md` and `label_efficiency.png` (`report_label_efficiency`), anew after every point, and
`points/` with each point's settings, log and record; its weights are not kept. A curve that was stopped goes
on by the same command: finished points stay, the others go on from their last checkpoint. Points that failed
are named at the end and tried again by the same command; starting points, counts and seeds may be added.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from modeling_rcmstr import CharacterTokenizer
from training.arguments import parse_grouped_arguments
from training.benchmark_measurement import checkpoint_hash
from training.collation import LabelEncoder
from training.label_efficiency_arguments import LabelEfficiencyArguments
from training.point_training import PointRun, train_points
from training.recogniser import changed_config, read_model_json
from training.report_label_efficiency import write_curves
from training.run_state import machine_kind, write_json_file
from training.word_sources import open_source, split_by_group

DEFAULT_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
WEIGHTS = ("checkpoints", "best", "final")


def main(argv: Sequence[str]) -> int:
    """Arguments → words → points → report; the exit status is 1 when a point failed, 130 after a stop."""
    arguments = parse_grouped_arguments(argv, LabelEfficiencyArguments)
    folder = Path(arguments.run.output_dir)
    models = {name: model_hash(arguments, name) for name in arguments.curve.starting_points}
    words = count_words(arguments)
    counts = choose_counts(arguments, words["train"])
    remember_settings(folder / "settings.json", arguments, words, models)
    # Seed by seed and from few labels to many, so that a curve that is stopped early is a curve.
    runs = [
        point_run(arguments, name, count, seed)
        for seed in arguments.seeds
        for count in counts
        for name in arguments.curve.starting_points
    ]
    left = [run for run in runs if not run.result.is_file()]
    print_curve_plan(arguments, words, counts, len(runs), len(left))
    write_report_so_far(arguments, words, runs)

    def finish(run: PointRun) -> str:
        result = keep_result(run)
        write_report_so_far(arguments, words, runs)
        return f"{100 * result['word_accuracy']:.1f} % of the words"

    try:
        failed = train_points(left, len(runs), arguments.run.jobs, finish)
    except KeyboardInterrupt:
        finished = sum(run.result.is_file() for run in runs)
        print(
            f"stopped; {finished} of {len(runs)} points are finished and kept. The same command goes on.",
            file=sys.stderr,
        )
        return 128 + signal.SIGINT
    for run, reason in failed:
        print(f"failed: {run.name}: {reason} (all of it: {run.output})", file=sys.stderr)
    if failed:
        print(f"{len(failed)} points failed; the same command tries them again.", file=sys.stderr)
    if len(failed) < len(runs):
        print((folder / "label_efficiency.md").read_text("utf-8"), end="")
        print(f"plot: {folder / 'label_efficiency.png'}")
    return int(bool(failed))


def count_words(arguments: LabelEfficiencyArguments) -> dict[str, Any]:
    """How many words can be trained on and are tested on, before anything is trained.

    Raises:
        ValueError: when the source has no end, or there are no words for one of the two.
    """
    settings = arguments.words
    source = open_source(settings.source)
    if source.size is None:
        raise ValueError(
            f"`source`: {settings.source!r} has no end, so nothing of it can be held back or counted; name "
            "labelled words in files, for example folder:my_words."
        )
    held_out_fraction = 0.0 if settings.test_source else float(settings.held_out_fraction)
    train, held_out = split_by_group(source, held_out_fraction, settings.split_seed)
    encoder = LabelEncoder(CharacterTokenizer(charset=settings.charset), settings.out_of_charset, None, None)
    usable = sum(encoder.clean(source.text(int(row))) is not None for row in train)
    if settings.test_source is not None:
        size = open_source(settings.test_source).size
        test, test_of = settings.test_words if size is None else size, f"of `{settings.test_source}`"
    else:
        test, test_of = len(held_out), f"held back from `{settings.source}`"
    for number, what, remedy in (
        (usable, "to train on", "see `charset` and `out_of_charset`, or lower `held_out_fraction`"),
        (test, "to test on", "raise `held_out_fraction`, or name a `test_source`"),
    ):
        if not number:
            raise ValueError(
                f"of the {source.size} words of {settings.source!r} none is left {what}; {remedy}."
            )
    return {
        "rows": source.size,
        "train": usable,
        "outside_the_charset": len(train) - usable,
        "test": min(test, settings.test_words),
        "test_of": test_of,
    }


def choose_counts(arguments: LabelEfficiencyArguments, available: int) -> list[int]:
    """Numbers of labels, rising: those of the settings, or shares of all words there are.

    Raises:
        ValueError: for more labels than there are words.
    """
    counts = arguments.curve.label_counts
    if counts is None:
        return sorted({max(1, round(share * available)) for share in DEFAULT_SHARES})
    if max(counts) > available:
        raise ValueError(
            f"`label_counts` asks for {max(counts)} labelled words, and {arguments.words.source!r} has "
            f"{available} to train on beside the test words; lower it (null takes shares of all there are), "
            "or label more words."
        )
    return sorted(counts)


def model_hash(arguments: LabelEfficiencyArguments, name: str) -> str:
    """SHA-256 of a starting point's weights, or of its model.json.

    Raises:
        ValueError: when there is no such model, or its configuration is refused.
    """
    point = arguments.point(name)
    place = Path(point["model"])
    changes = point.get("model_settings") or {}
    if not place.is_file() and not (place / "config.json").is_file():
        raise ValueError(
            f"`starting_points`: {name!r} names neither a model.json nor a checkpoint folder: "
            f"{point['model']!r}. `run_pretraining` leaves such a folder as OUTPUT_DIR/final."
        )
    if place.is_file():
        read_model_json(place, changes)
        return hashlib.sha256(place.read_bytes()).hexdigest()
    changed_config(place, changes)
    return checkpoint_hash(place)


def point_run(arguments: LabelEfficiencyArguments, name: str, count: int, seed: int) -> PointRun:
    """One point: its place, and the settings of its fine-tuning."""
    folder, words, point = Path(arguments.run.output_dir), arguments.words, arguments.point(name)
    place = folder / "points" / name / f"{count}-labels-seed-{seed}"
    optimisation = arguments.point_optimisation(name)
    settings = {
        "output_dir": str(place),
        "model": point["model"],
        "model_settings": point.get("model_settings"),
        "processor": point.get("processor"),
        "charset": words.charset,
        "seed": seed,
        "threads": arguments.run.threads,
        "train_sources": {words.source: 1},
        "held_out_fraction": 0.0 if words.test_source else words.held_out_fraction,
        "eval_sources": {"test": words.test_source} if words.test_source else None,
        "eval_words": words.test_words,
        "split_seed": words.split_seed,
        "label_count": count,
        "out_of_charset": words.out_of_charset,
        "augmentation_strength": words.augmentation_strength,
        "bucket_batches": words.bucket_batches,
        "data_workers": words.data_workers,
        **optimisation,
        "log_steps": max(1, min(50, optimisation["max_steps"] // 20)),
        "save_minutes": arguments.run.save_minutes,
        "keep_checkpoints": 1,
        "tensorboard": False,
    }
    facts = {"start": name, "labels": count, "seed": seed}
    result = folder / "results" / f"{name}-{count}-labels-seed-{seed}.json"
    return PointRun(f"{name}, {count:,} labels, seed {seed}", place, settings, facts, result)


def keep_result(run: PointRun) -> dict[str, Any]:
    """Write the result of a trained point from its record, and delete its weights.

    Raises:
        ValueError: when no test word could be scored.
    """
    record = json.loads((run.place / "final" / "training_record.json").read_text("utf-8"))
    final = record["final"]
    if final.get("word_accuracy") is None:
        raise ValueError(
            "no test word has a letter or digit, so there is no accuracy; choose other test words."
        )
    result = {
        **run.facts,
        **{measure: final[measure] for measure in ("word_accuracy", "cased_accuracy", "cer")},
        "test_words": sum(record["data"]["evaluated_words"].values()),
        "trained_on": record["data"]["sources"][0]["trained_on"],
        "updates": record["steps"],
        "minutes": record["minutes"],
    }
    write_json_file(run.place / "training_record.json", record)
    write_json_file(run.result, result)
    for name in WEIGHTS:
        shutil.rmtree(run.place / name, ignore_errors=True)
    return result


def write_report_so_far(
    arguments: LabelEfficiencyArguments, words: dict[str, Any], runs: Sequence[PointRun]
) -> None:
    """Write table, plot and numbers of the points that are finished."""
    results = [json.loads(run.result.read_text("utf-8")) for run in runs if run.result.is_file()]
    if results:
        settings = {
            **arguments.flat(),
            "labels": {name: arguments.point(name)["label"] for name in arguments.curve.starting_points},
            "baseline": arguments.baseline,
            "seeds": arguments.seeds,
        }
        write_curves(Path(arguments.run.output_dir), settings, words, results, machine_kind())


def print_curve_plan(
    arguments: LabelEfficiencyArguments, words: dict[str, Any], counts: Sequence[int], points: int, left: int
) -> None:
    """Say what is about to happen, derived numbers with their arithmetic."""
    starts, seeds = len(arguments.curve.starting_points), len(arguments.seeds)
    dropped = words["outside_the_charset"]
    print(
        f"words: {words['train']:,} to learn from, {words['test']:,} to test on ({words['test_of']})"
        + (f"; {dropped} more have characters outside the charset" if dropped else "")
    )
    print(f"labels: {', '.join(f'{count:,}' for count in counts)}")
    print(f"points: {points} = {starts} starting points x {len(counts)} numbers of labels x {seeds} seeds")
    settings = arguments.optimisation
    per_update = settings.batch_size * settings.gradient_accumulation_steps
    print(
        f"each: {settings.max_steps:,} updates of {per_update} words, threads: {arguments.run.threads}, "
        f"side by side: {arguments.run.jobs}"
    )
    if seeds < 3:
        print(f"seeds: {seeds}, so " + ("intervals are very wide" if seeds > 1 else "there are no intervals"))
    if left < points:
        print(f"finished already: {points - left}")
    sys.stdout.flush()


def remember_settings(
    path: Path, arguments: LabelEfficiencyArguments, words: dict[str, Any], models: dict[str, str]
) -> None:
    """Remember what decides the results, or compare it with what the folder began with.

    Raises:
        ValueError: when something changed, so that new points would not be comparable with finished ones.
    """
    starts = {name: {**arguments.point(name), "weights": models[name]} for name in models}
    for start in starts.values():
        del start["label"]
    own = {
        "words": {**asdict(arguments.words), "rows": words["rows"], "test": words["test"]},
        "optimisation": asdict(arguments.optimisation),
        "starting_points": starts,
    }
    # Where batches are made has no say in them.
    del own["words"]["data_workers"]
    own = json.loads(json.dumps(own))
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changed = [
            f"`{key}` was {before[group].get(key)!r}, now {value!r}"
            for group in ("words", "optimisation")
            for key, value in own[group].items()
            if before[group].get(key) != value
        ]
        known = before["starting_points"]
        changed += [
            f"starting point {name!r}"
            for name in starts
            if known.get(name, own["starting_points"][name]) != own["starting_points"][name]
        ]
        if changed:
            raise ValueError(
                f"{path.parent} holds a curve with other settings ({'; '.join(changed)}), and points trained "
                "differently do not belong on one curve; choose another `output_dir`, or undo the change."
            )
        own["starting_points"] = known | own["starting_points"]
    (path.parent / "results").mkdir(parents=True, exist_ok=True)
    write_json_file(path, own)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
