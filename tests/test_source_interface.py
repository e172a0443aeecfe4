"""How columns are chosen, and what a row without its image or label says."""

from pathlib import Path

import pytest

from training.source_interface import as_encoded, choose_columns, find_files, label_of, refuse_options


def test_columns_are_those_of_the_options_or_the_first_known_names() -> None:
    assert choose_columns("x", ["label", "img", "text"], {}).names() == ["img", "text"]
    assert choose_columns("x", ["a", "text", "img", "group"], {"image": "a"}).names() == [
        "a",
        "text",
        "group",
    ]
    assert choose_columns("x", ["image", "text"], {}, labelled=False).text is None
    assert choose_columns("x", ["image"], {}, labelled=False).names() == ["image"]


@pytest.mark.parametrize(
    ("available", "options", "message"),
    [
        (
            ["image", "said"],
            {},
            r"no text column text or label or .* among \['image', 'said'\]; name it with",
        ),
        (["crop", "text"], {}, r"no image column image or img .* name it with `\?image=COLUMN`"),
        (["image", "text"], {"text": "said"}, "no text column 'said'"),
        (["image", "text"], {"group": "page"}, "no group column 'page'"),
        (["image", "text"], {"colum": "text"}, r"unknown options \['colum'\]; known: image, text, group"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_remedy(
    available: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_columns("x", available, options)


def test_a_missing_label_or_image_is_named_by_its_row() -> None:
    assert label_of(7, "x", 0) == "7"
    with pytest.raises(ValueError, match="source 'x', row 3: no label"):
        label_of(None, "x", 3)
    assert as_encoded(b"1", "x", 0) == {"bytes": b"1", "path": None}
    assert as_encoded({"bytes": None, "path": "a"}, "x", 0)["path"] == "a"
    for nothing in (None, {"bytes": None, "path": None}):
        with pytest.raises(ValueError, match="source 'x', row 4: no image"):
            as_encoded(nothing, "x", 4)


def test_options_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: none"):
        refuse_options("x", {"a": "b"}, ())
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert find_files("x", str(tmp_path), ".tar") == find_files("x", f"{tmp_path}/*.tar", ".tar") == both
    with pytest.raises(ValueError, match="no tar file matches"):
        find_files("x", f"{tmp_path}/d.tar", ".tar")
