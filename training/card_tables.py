"""Tables of a model card that `fill_results` does not have: calibration, robustness, data, losses, probes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.card_facts import TrainingSource


def calibration_table(calibration: Mapping[str, Any]) -> str:
    """Calibration error and coverage of every set.

    Args:
        calibration: of a `results.json`.
    """
    precision = f"{100 * calibration['precision']:g} %"
    lines = [
        f"| words of | n | calibration error (ECE), % | accepted at {precision} right, % | from a score of |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in calibration["sets"]:
        coverage = one["coverage"]
        accepted = (
            f"{100 * coverage['coverage']:.1f} | {coverage['threshold']:.3f}" if coverage else "none | "
        )
        lines.append(f"| {_set_name(one['name'])} | {one['words']} | {_percent(one['error'])} | {accepted} |")
    return "\n".join([*lines, ""]).rstrip()


def robustness_table(robustness: Mapping[str, Any]) -> str:
    """Word accuracy at every grade of every distortion; the grade stands behind it.

    Args:
        robustness: of a `results.json`.
    """
    grades = max(len(curve["grades"]) for curve in robustness["curves"])
    lines = [
        "| distortion | as it is, % |" + "".join(f" grade {n + 1}, % |" for n in range(grades)),
        "|---" + "|---:" * (grades + 1) + "|",
    ]
    for curve in robustness["curves"]:
        clean, *worse = curve["points"]
        cells = [f"{curve['name']} ({curve['unit']})", _percent(clean["accuracy"])]
        cells += [f"{_percent(point['accuracy'])}\u00a0(at\u00a0{point['name']})" for point in worse]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sources_table(sources: Sequence[TrainingSource]) -> str:
    """What a checkpoint was trained on, and who allows it."""
    lines = ["| words | read in training | share | held out | rights |", "|---|---:|---:|---:|---|"]
    for one in sources:
        words = "" if one.words is None else f"{one.words:,}"
        share = "" if one.share is None else f"{one.share:.2f}"
        held_out = f"{one.held_out:,}" if one.held_out else ""
        lines.append(f"| {cell(one.name)} | {words} | {share} | {held_out} | {cell(one.rights)} |")
    return "\n".join(lines)


def losses_table(last: Mapping[str, Any]) -> str:
    """The losses of a pretraining run's last log line, their weighted sum, and what tells a collapse."""
    shown = [
        name
        for name, value in last.items()
        if "/" not in name
        and name.endswith(("loss", "_penalty", "_accuracy", "_perplexity"))
        and isinstance(value, int | float)
    ]
    names = {name: "weighted sum" if name == "loss" else name.replace("_", " ") for name in shown}
    rows = [f"| {names[name]} | {last[name]:.4g} |" for name in shown]
    return "\n".join([f"| at update {last['step']} | value |", "|---|---:|", *rows])


def probes_table(probes: Sequence[Mapping[str, Any]]) -> str:
    """What a small head on the frozen encoder read, update by update; empty without a probe."""
    if not probes:
        return ""
    rows = [
        f"| {probe['step']} | {_percent(probe['probe/word_accuracy'])} "
        f"| {_percent(probe['probe/one_minus_ned'])} | {probe['probe/effective_rank']:.1f} |"
        for probe in probes
    ]
    return "\n".join(
        ["| update | word accuracy, % | 1-NED, % | effective rank |", "|---:|---:|---:|---:|", *rows]
    )


def unbroken_ranges(table: str) -> str:
    """A table whose ranges of numbers ("9.1 to 15.1") stay on one line of their cells."""
    return re.sub(r"(?<=\d) to (?=\d)", "\u00a0to\u00a0", table)


def cell(text: str) -> str:
    """A text that a table's cell can hold: bars escaped, on one line."""
    return " ".join(text.replace("|", "\\|").split())


def _set_name(name: str) -> str:
    return name if " " in name else f"`{name}`"


def _percent(share: float | None) -> str:
    """A share in percent without the sign; a dash where there is none."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f}"
