"""Check the words of a source before training on them, alone or against a test source.

    python -m training.check_words words/ --charset ascii-94 --max-length 25 --sheet sheet.png
    python -m training.check_words train.parquet --test lmdb:test --json report.json
    python -m training.check_words words/ --test test.parquet --clean parquet:clean_words

Found are images that cannot be read, missing and empty labels, characters outside the charset, labels that
are too long, and pictures that come twice, in one source or in both. `--clean` writes a copy without them and
lists what it left out in `TARGET.left_out.tsv`. The exit status is 1 when something was found, and 2 when a
source cannot be opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import tqdm
from PIL import Image

from modeling_rcmstr.tokenization_text_recognition import NAMED_CHARSETS, charset_characters
from training.contact_sheet import draw_contact_sheet
from training.convert_words import convert, parse_target
from training.near_duplicates import DuplicatePair, PictureIndex
from training.run_state import write_json_file
from training.source_interface import WordSource
from training.word_checks import KINDS, LabelRules, ShownWord, SourceCheck, add_duplicates, check_rows
from training.word_rows import count_rows
from training.word_sources import name_source, open_source

# Rows, characters and pairs of pictures that are named; the report has all.
NAMED_ROWS = 8
DRAWN_PAIRS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse_options(arguments)
    labelled = not options.unlabelled
    try:
        rules = LabelRules(options.charset, options.max_length, labelled)
        if options.charset is not None:
            charset_characters(options.charset)
        target = parse_target(options.clean) if options.clean else None
        source = open_source(name_source(options.source), labelled)
        test_source = open_source(name_source(options.test), labelled) if options.test else None
        pictures = PictureIndex()
        train = _check(source, options.rows, rules, pictures)
        test = _check(test_source, options.rows, rules, pictures) if test_source is not None else None
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    pairs = list(tqdm(pictures.duplicates(), desc="pairs of one picture", unit="pair", disable=None))
    add_duplicates(train, test, pictures, pairs)
    checks = [train] if test is None else [train, test]
    for check in checks:
        print(describe(check))
    if options.json:
        write_json_file(Path(options.json), {"sources": [check.as_json() for check in checks]})
    if options.sheet:
        _sheet(checks, pictures, pairs).save(options.sheet)
    if target is not None:
        result = convert(source, *target, train.rows, labelled, leave_out=train.reasons())
        print(f"{result.words} words in {options.clean}, {result.left_out} left out")
    return 1 if any(check.findings for check in checks) else 0


def describe(check: SourceCheck) -> str:
    """The counts of a check, with the first rows of each kind."""
    lines = [f"{check.name}: {check.rows} rows, {len(check.reasons())} with a finding"]
    if check.sizes:
        narrow, wide, low, high = check.sizes
        lines.append(f"  images {narrow} to {wide} pixels wide, {low} to {high} high")
    if check.lengths:
        lines.append(
            f"  labels {min(check.lengths)} to {max(check.lengths)} characters long, of "
            f"{len(check.characters)} characters: {''.join(sorted(check.characters))}"
        )
    for kind, count in check.counts().items():
        rows = [finding.row for finding in check.findings if finding.kind == kind]
        named = ", ".join(map(str, rows[:NAMED_ROWS])) + (", …" if len(rows) > NAMED_ROWS else "")
        lines.append(f"  {count:>8}  {KINDS[kind]} (rows {named})")
        lines.append(f"            {next(f.reason for f in check.findings if f.kind == kind)}")
    if check.outside:
        outside = " ".join(f"{character}:{count}" for character, count in check.outside.most_common())
        lines.append(f"  labels with each character outside the charset: {outside}")
    return "\n".join(lines)


def _check(source: WordSource, limit: int | None, rules: LabelRules, pictures: PictureIndex) -> SourceCheck:
    rows = count_rows(source, limit)
    with tqdm(total=rows, desc=source.name, unit="word", disable=None) as progress:
        return check_rows(source, rows, rules, pictures, progress.update)


def _sheet(
    checks: Sequence[SourceCheck], pictures: PictureIndex, pairs: Sequence[DuplicatePair]
) -> Image.Image:
    """A sample of every source, words with a finding, and pairs of one picture, the near ones first."""
    sections: list[tuple[str, list[ShownWord]]] = []
    for check in checks:
        sections.append((f"{check.name}: a sample", sorted(check.sample, key=lambda word: word.row)))
        sections.append((f"{check.name}: what was found", check.shown))
    grey = pictures.pictures()
    numbers = [number for check in checks for number in check.numbers]
    drawn = [
        ShownWord(numbers[place], Image.fromarray(grey[place]), pictures.labels[place], which)
        for pair in sorted(pairs, key=lambda pair: pair.exact)[:DRAWN_PAIRS]
        for place, which in ((pair.first, "pair:"), (pair.second, "same" if pair.exact else "alike"))
    ]
    return draw_contact_sheet([*sections, ("pictures that come twice", drawn)])


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.check_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a path, or a source as `training.word_sources` names them")
    parser.add_argument("--test", metavar="SOURCE", help="words that must not be among those of the source")
    parser.add_argument("--charset", help=f"characters, or one of {', '.join(NAMED_CHARSETS)}")
    parser.add_argument("--max-length", type=int, help="characters of a label, at most")
    parser.add_argument("--rows", type=int, help="rows of each source, at most (default: all)")
    parser.add_argument("--unlabelled", action="store_true", help="images only, no label is asked for")
    parser.add_argument("--sheet", metavar="FILE", help="draw words, findings and pairs of one picture")
    parser.add_argument("--json", metavar="FILE", help="write everything that was found")
    parser.add_argument("--clean", metavar="TARGET", help="write a copy without the rows with a finding")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
