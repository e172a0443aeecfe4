"""The numbers of a study that a family's card quotes, from the study's `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.report_study import HEAD_NAMES


def study_summary(content: Mapping[str, Any]) -> str:
    """Word accuracy of every row with its gain over an untrained encoder, and how it was measured.

    Args:
        content: of a study's `results.json`, as `report_study` writes it.
    """
    rows, settings = content["rows"], content["settings"]
    heads = list(rows[0]["measures"])
    columns = ["encoder", *(f"{HEAD_NAMES[head]}, % | gain" for head in heads)]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:|---:" * len(heads) + "|"]
    for row in rows:
        cells = [row["label"]]
        for head in heads:
            gain = row["gains"].get(head, {}).get("word_accuracy")
            cells.append(f"{100 * row['measures'][head]['word_accuracy']['mean']:.1f}")
            cells.append(_interval(gain) if gain else "")
        lines.append("| " + " | ".join(cells) + " |")
    seeds = max(len(row["seeds"]) for row in rows)
    trained = next((one["pretraining"] for one in content["results"] if one["pretraining"]), None)
    seen = f"{trained['images_seen']:,} words seen by the encoder, " if trained else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{seen}{seeds} seeds; then a head on the frozen encoder learns from "
            f"{settings['labelled_words']:,} drawn words and reads {settings['test_words']:,} others. The "
            "gain over the untrained encoder of the group is in points, with its 95 % interval over the "
            "seeds.",
        ]
    )


def _interval(gain: Mapping[str, Any]) -> str:
    text = f"{100 * gain['mean']:+.1f}"
    # A single seed has no interval; JSON writes its bounds as null.
    if gain["low"] is None or gain["high"] is None:
        return text
    # Spaces that do not break keep an interval on one line of its cell.
    return f"{text} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})".replace(" ", "\u00a0")
