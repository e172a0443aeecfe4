"""Words from any form into any form, whole or not at all, whatever stops the way."""

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.word_files import encoded, write_lmdb, write_parquet
from tests.word_folders import write_words
from training import convert_words
from training.convert_words import main, parse_target
from training.word_sources import name_source, open_source
from training.word_writers import WRITERS

Words = list[tuple[Image.Image, str]]


def rows_of(place: str, labelled: bool = True) -> list[tuple[bytes, str]]:
    """Encoded image and text of every row."""
    source = open_source(name_source(place), labelled)
    assert source.size is not None
    found = []
    for row in map(source.row, range(source.size)):
        image = row["image"]
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        found.append((content, row["text"]))
    return found


def fingerprint(folder: Path) -> dict[str, str]:
    """Name and hash of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("target", WRITERS)
@pytest.mark.parametrize("start", WRITERS)
def test_bytes_and_labels_survive_every_way(
    tmp_path: Path, eight_words: Words, start: str, target: str
) -> None:
    place = str(write_words(tmp_path / "words", eight_words))
    for number, kind in enumerate((start, target)):
        assert main([place, f"{kind}:{tmp_path}/{number}", "--part-size", "3"]) == 0
        place = f"{tmp_path}/{number}"
    assert rows_of(place) == [(encoded(image), text) for image, text in eight_words]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "words"]


def test_words_without_labels_and_repeated_words(tmp_path: Path, eight_words: Words) -> None:
    place = str(write_lmdb(tmp_path / "words", [(image, None) for image, _ in eight_words]))
    main(
        [
            place,
            f"parquet:{tmp_path}/out",
            "--unlabelled",
            "--repeat",
            "3",
            "--rows",
            "20",
            "--part-size",
            "7",
        ]
    )
    images = [encoded(eight_words[i % 8][0]) for i in range(20)]
    assert rows_of(f"{tmp_path}/out", labelled=False) == [(image, "") for image in images]


def test_groups_go_to_parquet_and_are_missed_elsewhere(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_parquet(tmp_path / "words.parquet", eight_words)
    pq.write_table(
        pq.read_table(path).append_column("group", pa.array([f"page {i}" for i in range(8)])), path
    )
    main([str(path), f"parquet:{tmp_path}/out"])
    assert open_source(f"parquet:{tmp_path}/out").group(5) == "page 5"
    assert "not kept" not in capsys.readouterr().out
    main([str(path), f"lmdb:{tmp_path}/lmdb"])
    assert "the groups of" in capsys.readouterr().out


@pytest.mark.parametrize("kind", WRITERS)
def test_a_run_stopped_at_any_write_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, eight_words: Words, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(write_words(tmp_path / "words", eight_words))
    main([place, f"{kind}:{tmp_path}/whole", "--part-size", "2"])
    writer = WRITERS[kind]
    write, written = writer.write, []

    def stopping(self: Any, part: int, rows: Any) -> None:
        written.append(part)
        if written.count(part) == 1:
            if part % 2:
                write(self, part, rows)  # the stop comes right after the part
            raise KeyboardInterrupt
        write(self, part, rows)

    monkeypatch.setattr(writer, "write", stopping)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            main([place, f"{kind}:{tmp_path}/out", "--part-size", "2"])
        assert not (tmp_path / "out").exists()
    assert main([place, f"{kind}:{tmp_path}/out", "--part-size", "2"]) == 0
    assert written == [0, 0, 1, 2, 2, 3], "no whole part is written again"
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_killed_process_leaves_nothing_under_the_name_and_is_continued(
    tmp_path: Path, eight_words: Words, kind: str
) -> None:
    place = str(write_words(tmp_path / "words", eight_words))
    options = ["--part-size", "20", "--repeat", "100"]
    target, notes = tmp_path / "out", tmp_path / ".out.unfinished" / "notes"
    child = os.fork()
    if not child:
        main([place, f"{kind}:{target}", *options])
        os._exit(0)
    while not (notes / "counts-00002.txt").exists() and not target.exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert not target.exists()
        main([place, f"{kind}:{target}", *options])
    main([place, f"{kind}:{tmp_path}/whole", *options])
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "whole")


def test_rows_that_cannot_be_read_are_left_out_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], eight_words: Words
) -> None:
    folder = write_words(tmp_path / "words", eight_words)
    (folder / "3.png").unlink()
    with open(folder / "labels.tsv", "a", encoding="utf-8") as file:
        file.write("0.png\n")
    for kind in ("lmdb", "folder"):
        assert main([str(folder), f"{kind}:{tmp_path}/{kind}", "--part-size", "4"]) == 1
        assert "2 rows left out, see" in capsys.readouterr().out
        lines = (tmp_path / f"{kind}.left_out.tsv").read_text(encoding="utf-8").splitlines()
        assert [line.split("\t")[0] for line in lines] == ["row", "3", "8"]
        assert "there is no file" in lines[1]
        kept = [eight_words[i] for i in (0, 1, 2, 4, 5, 6, 7)]
        assert rows_of(f"{tmp_path}/{kind}") == [(encoded(image), text) for image, text in kept]


def test_an_unfinished_conversion_of_something_else_is_not_mixed_in(
    tmp_path: Path, eight_words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(write_words(tmp_path / "words", eight_words))

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_words, "_write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        main([place, f"lmdb:{tmp_path}/out"])
    monkeypatch.undo()
    assert main([place, f"parquet:{tmp_path}/out"]) == 2
    assert "unfinished conversion with other settings (kind differ)" in capsys.readouterr().err
    assert main([place, f"lmdb:{tmp_path}/out"]) == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("words", "must read `kind:path` with kind one of folder, parquet, lmdb, webdataset"),
        ("zip:words", "must read `kind:path`"),
        ("lmdb:{}", "exists; delete it, or give another target"),
    ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_target(target.format(tmp_path))
