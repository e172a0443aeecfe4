"""Numbers that the guides quote are those of the tables that commands wrote."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
# A difference or a mean, perhaps with its interval: 6.9 (0.7 to 13.1).
QUOTED = re.compile(r"(\d+\.\d+)(?: %| points)?(?: \((\d+\.\d+) to (\d+\.\d+)\))?")


def quoted(text: str) -> list[tuple[str, ...]]:
    """What a text quotes, signs left out, as a table's column may count a loss where the text says so."""
    return QUOTED.findall(re.sub(r"[+-](?=\d)", "", " ".join(text.split())))


def section(guide: str, title: str) -> str:
    """What stands under a title of a guide, up to the next of the same kind or above."""
    text = (DOCS / guide).read_text(encoding="utf-8")
    depth = title.index(" ")
    start = text.index(f"\n{title}\n") + len(title) + 2
    return re.split(rf"\n#{{1,{depth}}} ", text[start:], maxsplit=1)[0]


@pytest.mark.parametrize(
    ("guide", "title", "table"),
    [
        ("pretraining.md", "### RCMSTR", "study/rcmstr/study.md"),
        ("pretraining.md", "### PerSec", "study/persec/study.md"),
        ("fine_tuning.md", "### On drawn words", "label_efficiency/drawn/label_efficiency.md"),
        ("fine_tuning.md", "### On ICDAR 2015's words", "label_efficiency/ic15/label_efficiency.md"),
    ],
)
def test_a_guide_quotes_its_table(guide: str, title: str, table: str) -> None:
    found = quoted(section(guide, title))
    assert len(found) > 3
    known = quoted((DOCS / table).read_text(encoding="utf-8"))
    means = {mean for mean, _, _ in known}
    both_ways = set(known) | {(mean, high, low) for mean, low, high in known}
    for one in found:
        mean, low, _ = one
        assert (one in both_ways) if low else (mean in means), f"{one} is not in {table}"


def measured(name: str) -> dict[str, Any]:
    """What a measuring command wrote with `--output` or `output=`."""
    content: dict[str, Any] = json.loads((DOCS / "measurements" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def test_the_speeds_of_pretraining_are_those_that_were_measured() -> None:
    text = " ".join(section("pretraining.md", "## Speed").split())
    for name, words in {
        "step_cnn_small": "{:.1f} times as fast with a small CNN and a queue of 65,536",
        "step_vit_small": "{:.1f} with a small ViT",
        "step_cnn_paper": "{:.1f} with the paper's CNN",
        "step_vit_paper": "{:.1f} with the paper's ViT",
    }.items():
        assert words.format(measured(name)["speedup"]) in text, name
        assert measured(name)["settings"]["queue_size"] == 65536
        assert measured(name)["machine"]["threads"] == 2
    loss = measured("perceiver_loss")
    assert loss["batch_size"] == 64
    assert loss["machine"]["threads"] == 1
    assert "on one core PerSec's loss" in text
    wanted = f"{loss['speedup']:.1f} times as fast with {loss['memory_ratio']:.1f} times less memory"
    assert wanted in text


def test_the_speeds_of_sources_are_those_that_were_measured() -> None:
    text = " ".join(section("words.md", "## Measure").split())
    for name in ("million_lmdb", "million_parquet"):
        found = measured(name)
        assert found["size"] == 1_000_000
        assert found["rows"] == 999_999
        assert found["unreadable"] == 0
        rates = (
            found["read_rows_per_second"],
            *(found[f"{work}_rows_per_cpu_second"] for work in ("decoded", "viewed")),
        )
        cells = [f"{rate:,}" for rate in rates] + [f"{found['held_start_mib']}, {found['held_peak_mib']} MiB"]
        assert " | ".join(cells) in text, name
    assert f"both views of {measured('views_ic15')['viewed_rows_per_cpu_second']:,}" in text
    step = measured("step_vit_paper")
    seconds = statistics.median(step["seconds"]["package"])
    assert step["settings"]["device"] == "cpu", "there the seconds are of processor time"
    assert f"takes {step['settings']['batch_size'] / seconds:.1f} words per second of processor time" in text
