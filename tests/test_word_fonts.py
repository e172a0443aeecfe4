import shutil
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont

from training.word_fonts import NoUsableFontError, find_font_files, load_fonts

LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def edited(good_font: Path, path: Path, family: str, cmap: dict[str, str | None]) -> Path:
    """Copy a font, renamed, some of its characters drawn as others (None: taken away)."""
    font = TTFont(good_font)
    names = font.getBestCmap()
    wanted = {code: name for code, name in names.items() if cmap.get(chr(code), "") is not None}
    wanted.update({ord(c): names[ord(other)] for c, other in cmap.items() if other is not None})
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap = {code: name for code, name in wanted.items() if code < 65536}
    for record in font["name"].names:
        if record.nameID in (1, 16):
            record.string = family
    font.save(path)
    return path


def boxes(path: Path) -> Path:
    """Build a font that draws one and the same picture for every character, as some symbol fonts do."""
    order = [".notdef", "space", *(f"c{i}" for i in range(len(LETTERS_AND_DIGITS)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    codes = {ord(c): f"c{i}" for i, c in enumerate(LETTERS_AND_DIGITS)}
    builder.setupCharacterMap({32: "space", **codes})
    glyphs = {}
    for name in order:
        pen = TTGlyphPen(None)
        if name != "space":
            size = 300 if name == ".notdef" else 600
            pen.moveTo((0, 0))
            for point in ((0, size), (500, size), (250, size // 2), (500, 0)):
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_plain_font_is_described(good_font: Path, tmp_path: Path) -> None:
    (face,) = load_fonts([good_font], index_folder=tmp_path)
    assert face.case == "both"
    assert face.legibility == 1.0
    assert not face.monospaced
    assert 0.08 < face.stroke < 0.16
    assert 0.6 < face.capital_height < 0.8
    assert face.can_write("Hello 42")


def test_a_character_without_glyph_is_not_written(good_font: Path, tmp_path: Path) -> None:
    path = edited(good_font, tmp_path / "poor.ttf", "Poor", {"@": None, "$": None})
    (face,) = load_fonts([path], index_folder=tmp_path)
    assert "@" not in face.characters
    assert "$" not in face.characters
    assert "%" in face.characters
    assert not face.can_write("a@b")


def test_a_blank_glyph_counts_as_missing(good_font: Path, tmp_path: Path) -> None:
    path = edited(good_font, tmp_path / "blank.ttf", "Blank", {"#": " "})
    (face,) = load_fonts([path], index_folder=tmp_path)
    assert "#" not in face.characters
    assert " " in face.characters


def test_the_box_for_missing_characters_is_never_taken_for_one(good_font: Path, tmp_path: Path) -> None:
    font = TTFont(edited(good_font, tmp_path / "tofu.ttf", "Tofu", {}))
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap[ord("&")] = ".notdef"
    font.save(tmp_path / "tofu.ttf")
    (face,) = load_fonts([tmp_path / "tofu.ttf"], index_folder=tmp_path)
    assert "&" not in face.characters


def test_a_font_lacking_a_letter_is_left_out(good_font: Path, tmp_path: Path) -> None:
    edited(good_font, tmp_path / "lacking.ttf", "Lacking", {"q": None})
    with pytest.raises(NoUsableFontError, match=r"install_fonts\.sh"):
        load_fonts([tmp_path / "lacking.ttf"], index_folder=tmp_path)


@pytest.mark.parametrize(("drawn", "case"), [("upper", "upper"), ("lower", "lower")])
def test_a_font_of_one_case_writes_only_that_case(
    good_font: Path, tmp_path: Path, drawn: str, case: str
) -> None:
    letters = LETTERS_AND_DIGITS[:26]
    if drawn == "upper":
        cmap: dict[str, str | None] = {c.lower(): c for c in letters}
    else:
        cmap = {c: c.lower() for c in letters}
    edited(good_font, tmp_path / "a_one_case.ttf", "One Case", cmap)
    # Others show how the cases look.
    for number in range(4):
        edited(good_font, tmp_path / f"b{number}.ttf", f"Other {number}", {})
    faces = {face.family: face for face in load_fonts([tmp_path], index_folder=tmp_path / "index")}
    face = faces["One Case"]
    assert face.case == case
    assert face.can_write("ABC 12") == (case == "upper")
    assert face.can_write("abc 12") == (case == "lower")
    assert not face.can_write("Abc")
    assert faces["Other 0"].case == "both"


def test_a_font_of_pictures_is_left_out(good_font: Path, tmp_path: Path) -> None:
    boxes(tmp_path / "boxes.ttf")
    for number in range(3):
        edited(good_font, tmp_path / f"good{number}.ttf", f"Good {number}", {})
    families = {face.family for face in load_fonts([tmp_path], index_folder=tmp_path / "index")}
    assert families == {"Good 0", "Good 1", "Good 2"}


def test_fonts_come_in_the_same_order_wherever_they_lie(good_font: Path, tmp_path: Path) -> None:
    for folder, names in (("one", "cab"), ("two", "bca")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            shutil.copy(good_font, tmp_path / folder / name / f"{name}.ttf")
    (tmp_path / "one" / "README.txt").write_text("no font")
    orders = [[Path(p).name for p in find_font_files([tmp_path / f])] for f in ("one", "two")]
    assert orders[0] == orders[1] == ["a.ttf", "b.ttf", "c.ttf"]


def test_equal_family_and_style_counts_once(good_font: Path, tmp_path: Path) -> None:
    shutil.copy(good_font, tmp_path / "a.ttf")
    shutil.copy(good_font, tmp_path / "b.ttf")
    assert [Path(f.path).name for f in load_fonts([tmp_path], index_folder=tmp_path / "i")] == ["a.ttf"]


def test_broken_files_are_passed_over(good_font: Path, tmp_path: Path) -> None:
    shutil.copy(good_font, tmp_path / "good.ttf")
    (tmp_path / "empty.ttf").write_bytes(b"")
    (tmp_path / "cut.otf").write_bytes(good_font.read_bytes()[:500])
    assert len(load_fonts([tmp_path], index_folder=tmp_path / "i")) == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_fonts([tmp_path / "nowhere"])


def test_the_index_gives_the_same_faces_and_survives_damage(good_font: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    first = load_fonts([good_font], index_folder=index)
    (file,) = index.glob("fonts-*.json")
    assert load_fonts([good_font], index_folder=index) == first
    file.write_text(file.read_text()[:40])
    assert load_fonts([good_font], index_folder=index) == first


def test_further_characters_are_looked_for_when_asked(accented_font: Path, tmp_path: Path) -> None:
    (plain,) = load_fonts([accented_font], index_folder=tmp_path)
    assert not plain.can_write("bär")
    (face,) = load_fonts([accented_font], index_folder=tmp_path, further_characters="€äж")
    assert face.can_write("bär 5€")
    assert "ж" not in face.characters
    assert set(face.characters) - set(plain.characters) == set("€ä")
    # Both are kept beside each other.
    assert load_fonts([accented_font], index_folder=tmp_path) == [plain]


def test_a_letter_drawn_without_its_mark_counts_as_missing(good_font: Path, tmp_path: Path) -> None:
    path = edited(good_font, tmp_path / "markless.ttf", "Markless", {"ä": "a", "ö": "@"})
    (face,) = load_fonts([path], index_folder=tmp_path, further_characters="äö")
    assert "ö" in face.characters
    assert "ä" not in face.characters
