"""Convert words from any source into a folder, parquet files, an LMDB or WebDataset shards.

    python -m training.convert_words words/ lmdb:words_lmdb
    python -m training.convert_words parquet:words.parquet webdataset:words_tar --part-size 5000
    python -m training.convert_words stream:owner/words parquet:words_parquet --rows 100000

Images are copied as the bytes that they are. The target appears under its name when it is complete; a run
that was stopped is continued by the same command and gives the same bytes. Rows that cannot be read are left
out and listed in `TARGET.left_out.tsv`, and the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import tqdm

from training.run_state import write_json_file
from training.source_interface import WordSource
from training.word_rows import WordRow, count_rows, read_rows
from training.word_sources import name_source, open_source
from training.word_writers import WRITERS, WordWriter


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion wrote: the path of the target, its words, and the list of those left out, if any."""

    target: Path
    words: int
    left_out: int
    list_of_left_out: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse_options(arguments)
    try:
        kind, path = parse_target(options.target)
        source = open_source(name_source(options.source), labelled=not options.unlabelled)
        rows = count_rows(source, options.rows, options.repeat)
        result = convert(source, kind, path, rows, not options.unlabelled, options.part_size)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if source.has_groups and kind != "parquet":
        print(f"the groups of {source.name!r} are not kept: only parquet has a place for them.")
    print(f"{result.words} words in {kind}:{result.target}")
    if result.left_out:
        print(f"{result.left_out} rows left out, see {result.list_of_left_out}")
    return 1 if result.left_out else 0


def parse_target(text: str) -> tuple[str, Path]:
    """Split `kind:path`.

    Raises:
        ValueError: for another form or kind, or a path where something is.
    """
    kind, separator, place = text.partition(":")
    if not separator or kind not in WRITERS or not place:
        raise ValueError(
            f"a target must read `kind:path` with kind one of {', '.join(WRITERS)}; got {text!r}."
        )
    path = Path(place)
    if path.exists():
        raise ValueError(f"{place!r} exists; delete it, or give another target.")
    return kind, path


def convert(
    source: WordSource,
    kind: str,
    path: Path,
    rows: int | None,
    labelled: bool,
    part_size: int = 10_000,
    leave_out: Mapping[int, str] | None = None,
) -> ConversionResult:
    """Write rows 0 to `rows` - 1 of a source, in parts, and go on where an earlier run was stopped.

    Args:
        source: of the words; a finite one is repeated when `rows` is more than its size.
        kind: of the target, a key of `WRITERS`.
        path: of the target.
        rows: None for a stream that is read to its end.
        labelled: whether labels are written.
        part_size: rows that are written at once.
        leave_out: why rows are not wanted, by number.

    Raises:
        ValueError: when an unfinished conversion of something else is in the way.
    """
    leave_out = leave_out or {}
    staging = path.with_name(f".{path.name}.unfinished")
    record = _record(source, kind, rows, labelled, part_size, leave_out)
    data, notes = _prepare(staging, record)
    writer = WRITERS[kind](data, notes, labelled)
    part = writer.parts()
    with tqdm(total=rows, initial=part * part_size, unit="word", disable=None) as progress:
        while rows is None or part * part_size < rows:
            start = part * part_size
            stop = start + part_size if rows is None else min(start + part_size, rows)
            read = list(read_rows(source, start, stop))
            if not read:
                break
            _write_part(writer, part, read, leave_out)
            progress.update(len(read))
            part += 1
    writer.finish()
    return _finish(staging, path)


def _write_part(writer: WordWriter, part: int, read: Sequence[WordRow], leave_out: Mapping[int, str]) -> None:
    """Note what is left out, then write the rest: the part counts as written when its words are there."""
    reasons = {row.index: leave_out.get(row.index) or row.fault or writer.refusal(row) for row in read}
    lines = [
        f"{row.index}\t{reasons[row.index]}\t{json.dumps(row.text, ensure_ascii=False)}\n"
        for row in read
        if reasons[row.index]
    ]
    kept = [row for row in read if not reasons[row.index]]
    (writer.notes / f"counts-{part:05d}.txt").write_text(f"{len(kept)}\n", encoding="utf-8")
    (writer.notes / f"left_out-{part:05d}.tsv").write_text("".join(lines), encoding="utf-8")
    writer.write(part, kept)


def _prepare(staging: Path, record: dict[str, object]) -> tuple[Path, Path]:
    """Make the folders of an unfinished conversion, or take those of one that was stopped."""
    path = staging / "conversion.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in before.keys() | record.keys() if before.get(key) != record.get(key))
        if changed:
            raise ValueError(
                f"{str(staging)!r} holds an unfinished conversion with other settings ({', '.join(changed)} "
                "differ); run that command again to finish it, or delete the folder."
            )
    else:
        shutil.rmtree(staging, ignore_errors=True)
    data, notes = staging / "words", staging / "notes"
    data.mkdir(parents=True, exist_ok=True)
    notes.mkdir(exist_ok=True)
    if not path.is_file():
        write_json_file(path, record)
    return data, notes


def _finish(staging: Path, path: Path) -> ConversionResult:
    """Give the words their name, with the list of what was left out beside them."""
    notes = staging / "notes"
    words = sum(int(file.read_text()) for file in notes.glob("counts-*.txt"))
    lines = "".join(file.read_text(encoding="utf-8") for file in sorted(notes.glob("left_out-*.tsv")))
    list_path = path.with_name(f"{path.name}.left_out.tsv")
    list_path.unlink(missing_ok=True)
    if lines:
        partial = staging / "left_out.tsv"
        partial.write_text("row\treason\ttext\n" + lines, encoding="utf-8")
        partial.replace(list_path)
    (staging / "words").rename(path)
    shutil.rmtree(staging)
    return ConversionResult(path, words, lines.count("\n"), list_path if lines else None)


def _record(
    source: WordSource,
    kind: str,
    rows: int | None,
    labelled: bool,
    part_size: int,
    leave_out: Mapping[int, str],
) -> dict[str, object]:
    return {
        "source": source.name,
        "source_rows": source.size,
        "kind": kind,
        "rows": rows,
        "labelled": labelled,
        "part_size": part_size,
        "left_out_sha256": hashlib.sha256(repr(sorted(leave_out.items())).encode()).hexdigest(),
    }


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a path, or a source as `training.word_sources` names them")
    parser.add_argument("target", help=f"kind:path, kind one of {', '.join(WRITERS)}")
    parser.add_argument("--unlabelled", action="store_true", help="images only, no label is asked for")
    parser.add_argument("--rows", type=_positive, help="rows at most (default: all)")
    parser.add_argument("--repeat", type=_positive, default=1, help="write all rows this many times")
    parser.add_argument(
        "--part-size", type=_positive, default=10_000, help="rows a file or transaction (default %(default)s)"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
