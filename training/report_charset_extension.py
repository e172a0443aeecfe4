"""The table of a charset extension: old and new characters by number of images, rehearsed and not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from training.report_study import estimate


def extension_table(content: Mapping[str, Any]) -> str:
    """Write `results.json` of `measure_charset_extension` as a Markdown table with its protocol below."""
    real = [name for name in content["protocol"]["sets"] if name not in ("old", "new")]
    header = ["images per new character", "rehearsal", "seeds", "old, %", "new words, %", "new characters, %"]
    header += ["real words, %"] if real else []
    lines = ["| " + " | ".join(header) + " |", "|---:|---|---:|" + "---:|" * (len(header) - 3)]
    for name, title in (("before", "before"), ("resized", "right after resizing")):
        lines.append(_row([title, "", ""], [content[name]], real))
    rows: dict[tuple[int, float], list[Mapping[str, Any]]] = defaultdict(list)
    for point in content["points"]:
        rows[point["images"], point["rehearsal_share"]].append(point["sets"])
    for (images, share), sets in sorted(rows.items()):
        name = f"share {share:g}" if share else "none"
        lines.append(_row([str(images), name, str(len(sets))], sets, real))
    return "\n".join([*lines, "", _protocol(content, real), ""])


def _row(titles: Sequence[str], sets: Sequence[Mapping[str, Any]], real: Sequence[str]) -> str:
    cells = [_percent([s["old"]["exact"] for s in sets], sets[0]["old"])]
    cells.append(_percent([s["new"]["exact"] for s in sets], sets[0]["new"]))
    cells.append(_percent([_recall(s["new"]["new_characters"]) for s in sets]))
    if real:
        cells.append(_percent([_pooled(s, real) for s in sets]))
    return "| " + " | ".join([*titles, *cells]) + " |"


def _percent(values: Sequence[float], alone: Mapping[str, Any] | None = None) -> str:
    """Mean and Student's interval over seeds; of one value the interval over the words, where known."""
    found = estimate(values)
    low, high = found.low, found.high
    if len(values) == 1:
        if alone is None:
            return f"{100 * found.mean:.1f}"
        low, high = alone["exact_interval"]["low"], alone["exact_interval"]["high"]
    # Student's interval knows no bounds, an accuracy has two.
    return f"{100 * found.mean:.1f} ({100 * max(0.0, low):.1f} to {100 * min(1.0, high):.1f})"


def _recall(characters: Mapping[str, Sequence[int]]) -> float:
    """Share of all occurrences of new characters that were read right."""
    return sum(found for found, _ in characters.values()) / sum(asked for _, asked in characters.values())


def _pooled(sets: Mapping[str, Any], names: Sequence[str]) -> float:
    """Alphanumeric accuracy over the words of several sets."""
    words = sum(sets[name]["alphanumeric_words"] for name in names)
    right = sum(sets[name]["alphanumeric"] * sets[name]["alphanumeric_words"] for name in names)
    return float(right / words)


def _protocol(content: Mapping[str, Any], real: Sequence[str]) -> str:
    protocol = content["protocol"]
    machine, settings = protocol["machine"], protocol["settings"]
    counts = protocol["sets"]
    text = (
        f"`{protocol['characters']}` added to checkpoint `default`, weights {protocol['checkpoint']}; "
        f"{protocol['steps']} updates of {settings['batch_size']} words at a rate of up to "
        f"{settings['learning_rate']}. Old: {counts['old']} rendered words of the old charset; new words: "
        f"{counts['new']} rendered words that each hold a new character; right means to the character and "
        "case. New characters: share of their occurrences in the latter that were read right. "
    )
    if real:
        listed = ", ".join(f"`{name}` {counts[name]}" for name in real)
        text += f"Real words: {listed}; pooled, case-insensitive, letters and digits, for measuring only. "
    return text + (
        f"In brackets 95 % intervals: Student's over the seeds, Wilson's over the words in rows without. "
        f"Readings that the resizing changed: {content['changed_readings']} of "
        f"{sum(counts.values())}. {machine['cpu']}, {machine['threads']} "
        f"thread{'s' if machine['threads'] > 1 else ''}, PyTorch {machine['torch']}."
    )
