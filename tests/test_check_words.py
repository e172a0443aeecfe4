"""The command reports, draws, cleans, and says by its exit status whether something was found."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.word_files import encoded, tar_members, write_lmdb, write_parquet, write_tar
from tests.word_folders import write_words
from training.check_words import main
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


def test_good_words_give_status_0_and_a_summary(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_lmdb(tmp_path / "train", eight_words[:5])
    test = write_tar(tmp_path / "test.tar", tar_members(eight_words[5:]))
    assert main([str(train), "--test", str(test), "--charset", "alphanumeric-36", "--max-length", "7"]) == 0
    out = capsys.readouterr().out
    assert f"lmdb:{train}: 5 rows, 0 with a finding" in out
    assert f"webdataset:{test}: 3 rows, 0 with a finding" in out
    assert "images 128 to 128 pixels wide, 32 to 32 high" in out
    assert "labels 4 to 5 characters long" in out


def test_bad_words_are_reported_drawn_and_left_out_of_the_clean_copy(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_words(tmp_path / "words", eight_words)
    (folder / "1.png").write_bytes(b"broken")
    with open(folder / "labels.tsv", "a", encoding="utf-8") as file:
        file.write("2.png\tagain\n3.png\n")
    test = write_parquet(tmp_path / "test.parquet", eight_words[4:5])
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    command = [str(folder), "--test", str(test), "--json", str(report), "--sheet", str(sheet)]
    assert main([*command, "--clean", f"parquet:{tmp_path}/clean"]) == 1
    (words, tested) = json.loads(report.read_text(encoding="utf-8"))["sources"]
    assert words["counts"] == {
        "unreadable": 1,
        "no_label": 1,
        "exact_duplicate": 1,
        "in_test_set": 1,
        "label_conflict": 1,
    }
    assert {finding["row"] for finding in words["findings"]} == {1, 4, 8, 9}
    assert tested["counts"] == {}
    assert Image.open(sheet).height > 200
    clean = open_source(f"parquet:{tmp_path}/clean")
    kept = [eight_words[i] for i in (0, 2, 3, 5, 6, 7)]
    assert [clean.row(i)["image"]["bytes"] for i in range(6)] == [encoded(image) for image, _ in kept]
    assert [clean.text(i) for i in range(6)] == [text for _, text in kept]
    lines = (tmp_path / "clean.left_out.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["row", "1", "4", "8", "9"]
    assert "same picture as a row of the test source" in lines[2]
    assert "6 words in parquet:" in capsys.readouterr().out
    assert main([f"parquet:{tmp_path}/clean", "--test", str(test)]) == 0, "the copy is clean"


def test_a_stream_is_checked_to_its_end(tmp_path: Path, eight_words: Words) -> None:
    (tmp_path / "hub").mkdir()
    write_parquet(tmp_path / "hub" / "train.parquet", [*eight_words, eight_words[0]])
    report = tmp_path / "report.json"
    assert main([f"stream:{tmp_path}/hub", "--json", str(report)]) == 1
    (words,) = json.loads(report.read_text(encoding="utf-8"))["sources"]
    assert words["rows"] == 9
    assert [(f["kind"], f["row"]) for f in words["findings"]] == [("exact_duplicate", 8)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none"], "does not exist"),
        (["{}", "--test", "tar:{}"], "one of rendered, folder"),
        (["{}", "--charset", "aa"], "listed once"),
        (["{}", "--clean", "folder:{}"], "exists; delete it"),
    ],
)
def test_what_cannot_be_checked_gives_status_2_and_says_why(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.tsv").write_text("a.png\ta\n", encoding="utf-8")
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
