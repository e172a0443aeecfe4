"""From the points of a label curve to its `results.json`, table and plot.

A point is one starting point with one number of labels and one seed. Seeds draw the labelled words as well,
so the interval over them (Student's t, 95 %) says how much luck with the labels matters; the test words are
the same throughout, and what other test words would give is not in it. Gains are taken seed by seed, where
both sides learn from the same labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.report_study import Estimate, estimate
from training.run_state import write_json_file

# Okabe and Ito's colours, which the colour-blind tell apart, without yellow; in print, markers do.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class CurvePoint:
    """One starting point with one number of labels, over the seeds that are finished.

    Args:
        start: name of the starting point.
        labels: words it learned from.
        seeds: that are finished.
        accuracy: word accuracy, 0 to 1.
        cer: character error rate, mean.
        gain: how far its word accuracy is above the baseline's, seed by seed; None for the baseline.
        baseline_labels: labels with which the baseline is as good, between its own points on the log scale;
            infinite when it never is, None for the baseline.
    """

    start: str
    labels: int
    seeds: tuple[int, ...]
    accuracy: Estimate
    cer: float
    gain: Estimate | None
    baseline_labels: float | None


def summarise_curves(
    starts: Sequence[str], baseline: str, results: Sequence[Mapping[str, Any]]
) -> list[CurvePoint]:
    """Points by starting point, in the given order, and rising number of labels; missing ones left out."""
    found: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault((result["start"], result["labels"]), {})[result["seed"]] = result
    counts = sorted({labels for _, labels in found})
    base = {
        labels: estimate([one["word_accuracy"] for one in found[baseline, labels].values()]).mean
        for labels in counts
        if (baseline, labels) in found
    }
    points = []
    for start in starts:
        for labels in counts:
            own = found.get((start, labels))
            if own is None:
                continue
            seeds = tuple(sorted(own))
            accuracy = estimate([own[seed]["word_accuracy"] for seed in seeds])
            other = found.get((baseline, labels), {})
            shared = [seed for seed in seeds if seed in other] if start != baseline else []
            gain = [own[seed]["word_accuracy"] - other[seed]["word_accuracy"] for seed in shared]
            points.append(
                CurvePoint(
                    start,
                    labels,
                    seeds,
                    accuracy,
                    float(np.mean([own[seed]["cer"] for seed in seeds])),
                    estimate(gain) if gain else None,
                    None if start == baseline or not base else labels_needed(base, accuracy.mean),
                )
            )
    return points


def labels_needed(curve: Mapping[int, float], accuracy: float) -> float:
    """Labels with which a curve first reaches an accuracy, straight between its points over log(labels).

    Args:
        curve: labels → accuracy.
        accuracy: to be reached.

    Returns:
        The smallest number of the curve when that is enough already; infinity when no point is.
    """
    counts = sorted(curve)
    if curve[counts[0]] >= accuracy:
        return float(counts[0])
    for before, after in zip(counts[:-1], counts[1:], strict=True):
        if curve[after] >= accuracy:
            share = (accuracy - curve[before]) / (curve[after] - curve[before])
            return float(before * (after / before) ** share)
    return math.inf


def write_curves(
    folder: Path,
    settings: Mapping[str, Any],
    words: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
) -> None:
    """Write `results.json`, `label_efficiency.md` and `label_efficiency.png` into a folder.

    Args:
        folder: made already.
        settings: flat settings of the curve, with `labels` (starting point → label), `baseline` and `seeds`.
        words: `train`, `test` and `test_of` (where they come from).
        results: of finished points.
        machine: of `run_state.machine_kind`.
    """
    points = summarise_curves(list(settings["labels"]), settings["baseline"], results)
    content = {
        "settings": dict(settings),
        "words": dict(words),
        "machine": dict(machine),
        "points": [asdict(point) for point in points],
        "results": list(results),
    }
    write_json_file(folder / "results.json", content)
    (folder / "label_efficiency.md").write_text(
        curve_tables(points, settings, words, machine), encoding="utf-8"
    )
    draw_curves(points, settings, words, folder / "label_efficiency.png")


def curve_tables(
    points: Sequence[CurvePoint],
    settings: Mapping[str, Any],
    words: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> str:
    """Accuracies and gains in Markdown, and how they were measured."""
    labels, baseline = settings["labels"], settings["baseline"]
    by_place = {(point.start, point.labels): point for point in points}
    starts = [start for start in labels if any(point.start == start for point in points)]
    counts = sorted({point.labels for point in points})
    lines = [
        "| labels | " + " | ".join(f"{labels[start]}, %" for start in starts) + " |",
        "|---:" * (1 + len(starts)) + "|",
    ]
    for count in counts:
        cells = [_percent_of(by_place.get((start, count))) for start in starts]
        lines.append("| " + " | ".join([f"{count:,}", *cells]) + " |")
    others = [start for start in starts if start != baseline]
    if others and baseline in starts:
        head = f'Gain over "{labels[baseline]}" in points, and the labels with which that is as good:'
        columns = [f"{labels[start]} | labels for as much" for start in others]
        lines += ["", head, "", "| labels | " + " | ".join(columns) + " |"]
        lines.append("|---:" * (1 + 2 * len(others)) + "|")
        own = [point.labels for point in points if point.start == baseline]
        for count in counts:
            cells = [_gain_of(by_place.get((start, count)), min(own), max(own)) for start in others]
            lines.append("| " + " | ".join([f"{count:,}", *cells]) + " |")
    per_update = settings["batch_size"] * settings["gradient_accumulation_steps"]
    lines += [
        "",
        f"Word accuracy on lower-cased letters and digits of {words['test']:,} words {words['test_of']} that "
        f"no point was trained on. Seeds, which draw the labelled words, too: {len(settings['seeds'])}; "
        "mean and Student's 95 % interval, differences seed by seed. Every point: "
        f"{settings['max_steps']:,} updates of {per_update} words, {settings['optimizer']}. "
        f"{machine.get('cpu', '')}, {_plural(settings['threads'], 'thread')} a point, PyTorch "
        f"{machine.get('torch', '')}.",
        "",
    ]
    return "\n".join(lines)


def draw_curves(
    points: Sequence[CurvePoint], settings: Mapping[str, Any], words: Mapping[str, Any], path: Path
) -> None:
    """Draw mean, interval and every seed of each starting point over the number of labels (log scale)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    starts = [start for start in settings["labels"] if any(point.start == start for point in points)]
    for place, start in enumerate(starts):
        own = [point for point in points if point.start == start]
        # A little beside each other, so that no interval hides another.
        shift = 1.035 ** (place - (len(starts) - 1) / 2)
        x = np.array([point.labels * shift for point in own])
        style: Any = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        mean = np.array([100 * point.accuracy.mean for point in own])
        axes.plot(x, mean, lw=2, ms=7, mec="white", label=settings["labels"][start], zorder=3, **style)
        low, high = (
            np.array([100 * getattr(point.accuracy, side) for point in own]) for side in ("low", "high")
        )
        known = ~np.isnan(low)
        if known.any():
            axes.vlines(x[known], low[known].clip(0), high[known].clip(max=100), color=style["color"], lw=1.4)
            axes.fill_between(x, low.clip(0), high.clip(max=100), color=style["color"], alpha=0.1, lw=0)
        for where, point in zip(x, own, strict=True):
            values = [100 * value for value in point.accuracy.values]
            axes.plot([where] * len(values), values, "_", color=style["color"], ms=8, alpha=0.7, zorder=2)
    counts = sorted({point.labels for point in points})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    top = max(max(point.accuracy.values) for point in points)
    highest = [point.accuracy.high for point in points if not math.isnan(point.accuracy.high)]
    ceiling = min(100.0, max(5.0, 105 * max([top, *highest])))
    # A little below 0 and above 100, where markers would be cut.
    axes.set_ylim(-0.02 * ceiling, 1.02 * ceiling)
    axes.set_xlabel("labelled words to learn from")
    axes.set_ylabel("word accuracy on held-out words, %")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    seeds = len(settings["seeds"])
    spread = "mean, each seed (dashes) and Student's 95 % interval" if seeds > 1 else "no interval: one seed"
    axes.set_title("How many labels does it take?", loc="left", fontsize=13, fontweight="bold", pad=22)
    axes.text(
        0,
        1.02,
        f"{words['test']:,} test words, {_plural(seeds, 'seed')}: {spread}; {settings['max_steps']:,} "
        "updates a point",
        transform=axes.transAxes,
        fontsize=9,
        color="0.35",
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _percent_of(point: CurvePoint | None) -> str:
    if point is None:
        return ""
    text = f"{100 * point.accuracy.mean:.1f}"
    if math.isnan(point.accuracy.low):
        return text
    # Student's interval knows no bounds, an accuracy has two.
    low, high = max(0.0, point.accuracy.low), min(1.0, point.accuracy.high)
    return text + f" ({100 * low:.1f} to {100 * high:.1f})"


def _gain_of(point: CurvePoint | None, least: int, most: int) -> str:
    """The cells of a gain and of the labels that the baseline needs, which had from `least` to `most`."""
    if point is None or point.gain is None or point.baseline_labels is None:
        return " | "
    if point.accuracy.mean <= 0:
        needed = "reads nothing"  # which takes no labels at all
    elif math.isinf(point.baseline_labels):
        needed = f"more than {most:,}"
    elif point.baseline_labels <= least:
        needed = f"at most {least:,}"
    else:
        needed = f"{round(point.baseline_labels):,}"
    gain = f"{100 * point.gain.mean:+.1f}"
    if not math.isnan(point.gain.low):
        gain += f" ({100 * point.gain.low:+.1f} to {100 * point.gain.high:+.1f})"
    return f"{gain} | {needed}"


def _plural(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
