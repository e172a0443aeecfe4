"""Every fault of a row or pair is found once, under its kind, with its row and reason."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.word_files import encoded
from training.near_duplicates import PictureIndex
from training.word_checks import (
    SAMPLE_WORDS,
    Finding,
    LabelRules,
    SourceCheck,
    add_duplicates,
    check_rows,
)
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


def ignore(rows: int) -> None:
    pass


def folder_of(place: Path, files: Sequence[tuple[bytes | None, str]]) -> Path:
    """A folder of file contents with lines of labels.tsv, None for a missing file."""
    place.mkdir()
    for number, (content, _) in enumerate(files):
        if content is not None:
            (place / f"{number}.png").write_bytes(content)
    lines = [f"{number}.png{label}\n" for number, (_, label) in enumerate(files)]
    (place / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    return place


def kinds(check: SourceCheck) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for finding in check.findings:
        found.setdefault(finding.kind, []).append(finding.row)
    return found


def test_every_faulty_row_is_found_and_the_rest_is_read(tmp_path: Path, eight_words: Words) -> None:
    images = [encoded(image) for image, _ in eight_words]
    jpeg = io.BytesIO()
    eight_words[7][0].save(jpeg, "JPEG")
    files = [
        (images[0], "\tbook"),
        (b"no image", "\tx"),
        (None, "\tx"),
        (images[1], ""),
        (images[2], "\t "),
        (images[3], "\tmilk€ß€"),
        (images[4], "\t" + "x" * 26),
        (jpeg.getvalue()[:-300], "\tcut"),
        (b"", "\tempty"),
        (images[5], "\twow"),
    ]
    source = open_source(f"folder:{folder_of(tmp_path / 'words', files)}")
    index = PictureIndex()
    check = check_rows(source, 10, LabelRules("ascii-94", 25), index, ignore)
    assert check.rows == 10
    assert kinds(check) == {
        "unreadable": [1, 2, 7, 8],
        "no_label": [3],
        "empty_label": [4],
        "outside_charset": [5],
        "too_long": [6],
    }
    assert check.outside == {"€": 1, "ß": 1}
    assert check.numbers == [0, 4, 5, 6, 9]
    assert len(index) == 5
    reasons = check.reasons()
    assert "not an image that Pillow can read; convert it" in reasons[1]
    assert "there is no file" in reasons[2]
    assert "line 4: expected `file name<TAB>label`" in reasons[3]
    assert "has 26 characters, the limit is 25" in reasons[6]
    assert "cut off, copy it again" in reasons[7]
    assert [word.row for word in check.shown] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_labels_are_judged_as_the_tokenizer_of_the_charset_reads_them() -> None:
    assert LabelRules("alphanumeric-36").check(0, "BooK")[0] == []
    assert [f.kind for f in LabelRules("ascii-94").check(0, "a b")[0]] == ["outside_charset"]
    assert LabelRules("é").check(0, "e\u0301")[0] == [], "composed as in training"
    assert LabelRules(max_length=1).check(0, "ab")[0][0].kind == "too_long"
    assert LabelRules(labelled=False).check(0, "")[0] == []
    assert LabelRules().check(3, "")[0] == [
        Finding("empty_label", 3, "the label is ''; write it, or drop the row.")
    ]


def test_words_without_labels_are_checked_for_their_images(tmp_path: Path, eight_words: Words) -> None:
    place = folder_of(tmp_path / "words", [(encoded(eight_words[0][0]), ""), (b"x", "")])
    source = open_source(f"folder:{place}", labelled=False)
    check = check_rows(source, 2, LabelRules(labelled=False), PictureIndex(), ignore)
    assert kinds(check) == {"unreadable": [1]}


def test_duplicates_inside_and_between_sources_name_their_rows(tmp_path: Path, eight_words: Words) -> None:
    def softer(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=70)
        return buffer.getvalue()

    images = [encoded(image) for image, _ in eight_words]
    train = [(images[0], "\tbook"), (b"", "\tx"), (images[0], "\tBook"), (images[1], "\texit")]
    train += [(images[2], "\t42nd"), (images[1], "\texlt"), (softer(eight_words[2][0]), "\t42nd")]
    test = [
        (images[5], "\twow"),
        (images[1], "\texit"),
        (images[5], "\twow"),
        (softer(eight_words[0][0]), "\tbook"),
    ]
    index, checks = PictureIndex(), []
    for name, files in (("train", train), ("test", test)):
        source = open_source(f"folder:{folder_of(tmp_path / name, files)}")
        checks.append(check_rows(source, len(files), LabelRules(), index, ignore))
    add_duplicates(checks[0], checks[1], index, index.duplicates())
    assert kinds(checks[0]) == {
        "unreadable": [1],
        "exact_duplicate": [2, 5],
        "label_conflict": [5],
        "in_test_set": [3, 0],
        "near_duplicate": [6],
    }
    assert kinds(checks[1]) == {"exact_duplicate": [2]}
    assert "row 1 of folder:" in checks[0].reasons()[3]
    assert "row 3 is the same: 'exit' and 'exlt'" in checks[0].reasons()[5]
    report = checks[0].as_json()
    assert report["counts"]["in_test_set"] == 2
    assert report["rows"] == 7


def test_the_sample_is_spread_over_a_long_source(tmp_path: Path, eight_words: Words) -> None:
    content = encoded(eight_words[0][0].resize((16, 4)))
    place = folder_of(tmp_path / "words", [(content, "\tx")] * 400)
    check = check_rows(open_source(f"folder:{place}"), 400, LabelRules(), PictureIndex(), ignore)
    rows = sorted(word.row for word in check.sample)
    assert len(rows) == len(set(rows)) == SAMPLE_WORDS
    assert sum(rows) / len(rows) == pytest.approx(200, abs=50)
