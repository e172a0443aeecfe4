"""Write measured numbers into documents, so that nobody types them.

After `make bench DATA=my_words`, the README's tables of the bundled recogniser (its card: `write_cards`):
    python -m training.fill_results README.md
From the results of another checkpoint:
    python -m training.fill_results notes.md --results results.json --speed speed.json
Only look whether the documents are up to date (exit status 1 when not):
    python -m training.fill_results README.md --check

A document holds the places as pairs of comments: `<!-- results -->` and `<!-- /results -->` for what
`run_benchmark` measured, `<!-- speed -->` and `<!-- /speed -->` for `run_speed`. What stands between them is
replaced.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_rcmstr import default_checkpoint

PLACES = ("results", "speed")


def main(argv: Sequence[str]) -> int:
    """Arguments → tables → documents; the exit status is 1 when `--check` found one out of date."""
    options = parse_options(argv)
    tables = {
        place: render(json.loads(Path(file).read_text(encoding="utf-8")))
        for place, render, file in (
            ("results", results_table, options.results),
            ("speed", speed_table, options.speed),
        )
        if Path(file).is_file()
    }
    if not tables:
        raise ValueError(f"neither {options.results} nor {options.speed} exists; `make bench` writes both.")
    stale = []
    for document in map(Path, options.documents):
        before = document.read_text(encoding="utf-8")
        after = fill(before, tables)
        if after != before:
            stale.append(document)
        if not options.check:
            document.write_text(after, encoding="utf-8")
    for document in stale:
        print(f"{document}: {'out of date' if options.check else 'updated'}")
    return int(options.check and bool(stale))


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    folder = default_checkpoint()
    parser = argparse.ArgumentParser(
        prog="python -m training.fill_results", description="Write measured numbers into documents."
    )
    parser.add_argument("documents", nargs="+", help="Markdown files that hold the places")
    parser.add_argument("--results", default=folder / "results.json", help="what run_benchmark wrote")
    parser.add_argument("--speed", default=folder / "speed.json", help="what run_speed wrote")
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is out of date")
    return parser.parse_args(argv)


def fill(text: str, tables: dict[str, str]) -> str:
    """Replace what stands between the comments of each place that the text has.

    Args:
        text: of a document.
        tables: place → Markdown.

    Raises:
        ValueError: when no place is there, or a place has no end.
    """
    found = False
    for place, table in tables.items():
        start, end = f"<!-- {place} -->", f"<!-- /{place} -->"
        if start not in text:
            continue
        found = True
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ValueError(f"a document needs one `{start}` and one `{end}` after it.")
        before, rest = text.split(start)
        text = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    if not found:
        raise ValueError(
            f"the document has no place for {' or '.join(tables)}: put `<!-- results -->` in it."
        )
    return text


def results_table(report: dict[str, Any]) -> str:
    """Accuracy of every set and group of a `results.json`, with protocol, checkpoint and machine under it."""
    rows = [_result_row(result) for result in report["sets"]]
    rows += [_result_row(result) for result in report["groups"]]
    checkpoint = report["checkpoint"]
    lines = [
        "| words of | n | accuracy, % | 95 % interval | cased, % | 1-NED, % | words/s | fingerprint |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *rows,
        "",
        f"Protocol {report['protocol']['name']}. {report['protocol']['text']} The fingerprint identifies "
        "protocol, files and labels.",
    ]
    if report.get("benchmark"):
        lines.append(
            f"Sets: {report['benchmark']['name']}. {' '.join(report['benchmark']['notices'])}".strip()
        )
    if report["limit"] is not None:
        lines.append(f"Only the first {report['limit']} words of each set.")
    lines.append(
        f"Checkpoint `{checkpoint['name']}`, weights {checkpoint['sha256'][:16]}; "
        f"batches of {report['batch_size']}; {describe_machine(report['machine'])}."
    )
    return "\n".join(lines)


def speed_table(report: dict[str, Any]) -> str:
    """Words per second of every reader of a `speed.json`, and the ratio of the first two."""
    lines = ["| reader | words/s, median | slowest to fastest round | accuracy, % |", "|---|---:|---:|---:|"]
    for reader in report["readers"]:
        speeds = reader["words_per_second"]
        lines.append(
            f"| {reader['name']} | {statistics.median(speeds):.0f} | {min(speeds):.0f} to {max(speeds):.0f} "
            f"| {100 * reader['scores']['word_accuracy']:.1f} |"
        )
    scores = report["readers"][0]["scores"]
    words = scores["words"] + scores["empty_labels"]
    rounds = len(report["readers"][0]["words_per_second"])
    lines += [
        "",
        f"The same {words} decoded images for each, {rounds} rounds in turn; "
        f"{describe_machine({**report['machine'], 'threads': report['threads']})}.",
    ]
    if "ratio" in report:
        ratio = report["ratio"]
        lines.append(
            f"Ratio of words/s, {report['readers'][0]['name']} to {report['readers'][1]['name']}: "
            f"median {ratio['median']:.1f}, from {ratio['low']:.1f} to {ratio['high']:.1f}."
        )
    return "\n".join(lines)


def describe_machine(machine: dict[str, Any]) -> str:
    """One phrase: where it was computed, on how many threads, with which PyTorch."""
    threads = "thread" if machine["threads"] == 1 else "threads"
    processor = " ".join(machine["cpu"].split())
    place = machine["gpu"] or f"{processor}, {machine['threads']} {threads}"
    return f"{place}, PyTorch {machine['torch']}"


def _result_row(result: dict[str, Any]) -> str:
    scores = result["scores"]
    name = f"`{result['name']}`"
    if result["members"]:
        name += f" ({' + '.join(result['members'])})"
    return (
        f"| {name} | {scores['words']} | {100 * scores['word_accuracy']:.1f} "
        f"| {100 * scores['interval']['low']:.1f} to {100 * scores['interval']['high']:.1f} "
        f"| {100 * scores['cased_accuracy']:.1f} | {100 * scores['one_minus_ned']:.1f} "
        f"| {result['words_per_second']:.0f} | `{result['fingerprint']}` |"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
