"""From the results of a study to its `results.json`, table and plot.

Every row ran with several seeds; a mean comes with the 95 % interval of Student's t over them, which with few
seeds is wide, and says nothing about words of another kind. The gain is the mean difference to the group's
baseline, seed by seed, with its own interval: the seeds share their words and weights at the start, so
differences are surer than means.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from training.run_state import write_json_file

PERCENT_MEASURES = {"word_accuracy": "accuracy", "one_minus_ned": "1-NED"}
HEAD_NAMES = {"ctc": "CTC", "attention": "attention"}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval; the bounds are NaN with a single seed."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's 95 % interval of independent values.

    Raises:
        ValueError: when there are none.
    """
    if not values:
        raise ValueError("an estimate needs at least one value.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, math.nan, math.nan, tuple(values))
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, tuple(values))


@dataclass(frozen=True)
class RowSummary:
    """A row of the table: by head and measure, over seeds; gains are to its group's baseline.

    Args:
        name: of the row.
        label: for people.
        group: rows of one group have one baseline.
        seeds: that ran.
        measures: head → measure → estimate.
        gains: head → measure → estimate of the difference; empty for a baseline, or without one.
        minutes: of pretraining, mean; 0 without.
        effective_rank: of the words' mean features, mean.
    """

    name: str
    label: str
    group: str
    seeds: tuple[int, ...]
    measures: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Estimate]]
    minutes: float
    effective_rank: float


def summarise(
    rows: Mapping[str, Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[RowSummary]:
    """Rows in the order of the settings, those without a result left out."""
    by_row: dict[str, dict[int, Any]] = {}
    for result in results:
        by_row.setdefault(result["row"], {})[result["seed"]] = result
    baselines = {
        row.get("group", ""): by_row.get(name, {})
        for name, row in rows.items()
        if not row.get("pretrained", True)
    }
    summaries = []
    for name, row in rows.items():
        if not (own := by_row.get(name)):
            continue
        group = row.get("group", "")
        base = baselines.get(group, {}) if row.get("pretrained", True) else {}
        heads = sorted(next(iter(own.values()))["heads"], key=list(HEAD_NAMES).index)
        shared = sorted(set(own) & set(base))

        def measured(one: Mapping[str, Any], head: str, measure: str) -> float:
            return float(one["heads"][head][measure])

        summaries.append(
            RowSummary(
                name,
                row.get("label", name),
                group,
                tuple(sorted(own)),
                {
                    head: {
                        measure: estimate([measured(own[seed], head, measure) for seed in sorted(own)])
                        for measure in PERCENT_MEASURES
                    }
                    for head in heads
                },
                {
                    head: {
                        measure: estimate(
                            [
                                measured(own[seed], head, measure) - measured(base[seed], head, measure)
                                for seed in shared
                            ]
                        )
                        for measure in PERCENT_MEASURES
                    }
                    for head in heads
                    if shared
                },
                statistics.fmean((one["pretraining"] or {"minutes": 0.0})["minutes"] for one in own.values()),
                statistics.fmean(measured(one, heads[0], "effective_rank") for one in own.values()),
            )
        )
    return summaries


def compare_rows(
    results: Sequence[Mapping[str, Any]], first: str, second: str, measure: str = "word_accuracy"
) -> dict[str, Estimate]:
    """By head, how far `first` is above `second`, over the seeds that both ran with; empty without any."""
    runs = {(result["row"], result["seed"]): result["heads"] for result in results}
    seeds = sorted(seed for row, seed in runs if row == first and (second, seed) in runs)
    if not seeds:
        return {}
    return {
        head: estimate(
            [runs[first, seed][head][measure] - runs[second, seed][head][measure] for seed in seeds]
        )
        for head in runs[first, seeds[0]]
    }


def write_report(
    folder: Path,
    settings: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
) -> None:
    """Write `results.json`, `study.md` and `study.png` into a folder."""
    summaries = summarise(settings["rows"], results)
    content = {
        "settings": dict(settings),
        "machine": dict(machine),
        "rows": [asdict(summary) for summary in summaries],
        "results": list(results),
    }
    write_json_file(folder / "results.json", content)
    (folder / "study.md").write_text(study_table(content), encoding="utf-8")
    draw_study(summaries, folder / "study.png")


def study_table(content: Mapping[str, Any]) -> str:
    """The table of a study's `results.json`, in Markdown, with how it was measured."""
    rows, settings = content["rows"], content["settings"]
    heads = list(rows[0]["measures"])
    columns = ["row"]
    for head in heads:
        columns += [f"{HEAD_NAMES[head]}, %", "gain", f"{HEAD_NAMES[head]} 1-NED, %"]
    columns += ["rank", "minutes"]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in rows:
        cells = [row["label"]]
        for head in heads:
            measures = row["measures"][head]
            gain = row["gains"].get(head, {}).get("word_accuracy")
            cells += [
                _percent(measures["word_accuracy"]),
                _percent(gain, sign="+") if gain else "",
                _percent(measures["one_minus_ned"], interval=False),
            ]
        cells += [f"{row['effective_rank']:.1f}", f"{row['minutes']:.1f}" if row["minutes"] else ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += _comparison_lines(content, heads)
    seeds = max(len(row["seeds"]) for row in rows)
    trained = next((one["pretraining"] for one in content["results"] if one["pretraining"]), None)
    seen = f"{trained['steps']} updates, {trained['images_seen']:,} words; " if trained else ""
    machine = content["machine"]
    lines += [
        "",
        f"Pretraining: {seen}{seeds} seeds. Then the encoder is frozen, its batch norm statistics taken anew "
        f"from {settings['refresh_words']} unlabelled words, and each head learns from "
        f"{settings['labelled_words']} labelled words for {settings['head_updates']} updates of 64 and reads "
        f"{settings['test_words']} others: word accuracy on lower-cased letters and digits, mean over seeds "
        "with Student's 95 % interval. The gain is the difference to the untrained encoder; all differences "
        "are taken seed by seed. Rank: effective rank of the words' mean features. "
        f"{machine.get('cpu', '')}, {settings['threads']} thread a row, PyTorch {machine.get('torch', '')}.",
        "",
    ]
    return "\n".join(lines)


def _comparison_lines(content: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    settings = content["settings"]
    labels = {name: row.get("label", name) for name, row in settings["rows"].items()}
    lines = []
    for first, second in settings.get("comparisons") or []:
        if found := compare_rows(content["results"], first, second):
            cells = [_percent(asdict(found[head]), sign="+") for head in heads]
            lines.append("| " + " | ".join([labels[first], labels[second], *cells]) + " |")
    if not lines:
        return []
    columns = ["row", "over", *(f"{HEAD_NAMES[head]}, points" for head in heads)]
    return ["", "| " + " | ".join(columns) + " |", "|---|---" + "|---:" * len(heads) + "|", *lines]


def draw_study(summaries: Sequence[RowSummary], path: Path) -> None:
    """Draw a dot per seed, and mean and interval of each row, a panel for each head."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heads = list(summaries[0].measures)
    figure = Figure(figsize=(4.2 * len(heads) + 2.2, 0.36 * len(summaries) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    groups = list(dict.fromkeys(summary.group for summary in summaries))
    places = list(range(len(summaries)))
    panels = figure.subplots(1, len(heads), sharey=True, squeeze=False)[0]
    for axes, head in zip(panels, heads, strict=True):
        for place, summary in zip(places, summaries, strict=True):
            found = summary.measures[head]["word_accuracy"]
            colour = f"C{groups.index(summary.group)}"
            axes.plot(
                [100 * v for v in found.values],
                [place] * len(found.values),
                "o",
                color=colour,
                alpha=0.35,
                ms=4,
            )
            if not math.isnan(found.low):
                axes.plot([100 * found.low, 100 * found.high], [place, place], "-", color=colour, lw=1.5)
            axes.plot([100 * found.mean], [place], "D", color=colour, ms=6)
            if not summary.gains and not summary.minutes:
                axes.axvline(100 * found.mean, color=colour, lw=0.8, ls=":")
        axes.set_title(f"{HEAD_NAMES[head]} head on the frozen encoder")
        axes.set_xlabel("word accuracy, %")
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlim(left=0)
    panels[0].set_yticks(places, [summary.label for summary in summaries])
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _percent(found: Any, sign: str = "", interval: bool = True) -> str:
    text = f"{100 * found['mean']:{sign}.1f}"
    # JSON has no NaN; a bound that is none is written as null.
    if interval and found["low"] is not None and not math.isnan(found["low"]):
        text += f" ({100 * found['low']:{sign}.1f} to {100 * found['high']:{sign}.1f})"
    return text
