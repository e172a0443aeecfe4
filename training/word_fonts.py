"""The fonts that synthetic words are drawn in: found, looked at, weighed.

A file that calls itself a font may lack characters, draw a box for them, hold pictures instead of letters, or
draw lower case as capitals, and each of these makes a wrong label. So every font is rasterised once and
judged by its looks:

* a character counts as drawn only when its glyph has ink and is not the font's "missing" box (no tofu, no
  blanks);
* letters and digits are compared with the mean of all fonts given: a font whose glyphs are not nearest to the
  right mean (pictures, extreme ornaments) is left out, an odd one is drawn rarely;
* when `a`, `b`, `e`, … look like `A`, `B`, `E`, … the font has one case only and writes only texts of that
  case.

Drawing with the fonts lives in word_glyphs; what is written lives in word_texts. Fonts come from the system
or from a folder filled by training/install_fonts.sh.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import ImageFont

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))
# Where Linux, macOS and Windows keep fonts, and where a user does.
SYSTEM_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# Letters whose two cases differ in shape, not only in size.
_TWO_SHAPES = "abdefghlnqrt"
# Shapes that good fonts share: naming one for the other says nothing against a font.
_LOOKALIKES = ("0oO", "1iIlL", "5S", "2Z", "6b", "9gq")
_LOOK_SIZE = 32  # nominal pixels at which fonts are judged
_THUMBNAIL = 12  # side in pixels of the squares in which glyph shapes are compared
_INDEX_VERSION = 5


class NoUsableFontError(ValueError):
    """No font was found with which words can be drawn."""


@dataclass(frozen=True)
class FontFace:
    """One font file that can write words.

    Args:
        path: the file.
        family: the family's name, as the font gives it.
        style: e.g. "Bold Italic", as the font gives it.
        characters: those printable ASCII characters, and of further ones that were asked for, that the font
            really draws; the space is always among them.
        case: "both", or "upper"/"lower" when both cases have the same shapes, those of capitals/small
            letters.
        capital_height: of an H, over the font's nominal size; about 0.7.
        stroke: mean stroke thickness over the height of capitals; about 0.12 regular, 0.2 bold, 0.05
            hairline.
        monospaced: all characters are equally wide, as on receipts and screens.
        legibility: the share of letters and digits nearest to the right mean shape of all fonts, 0 to 1.
        weight: how often to draw with it, relative to other faces.
    """

    path: str
    family: str
    style: str
    characters: str
    case: str
    capital_height: float
    stroke: float
    monospaced: bool
    legibility: float
    weight: float

    def can_write(self, text: str) -> bool:
        """Tell whether the label `text` comes out as written: all characters drawn, and in the case shown."""
        if (self.case == "upper" and text != text.upper()) or (self.case == "lower" and text != text.lower()):
            return False
        return set(text) <= set(self.characters)


def find_font_files(folders: Iterable[str | os.PathLike[str]] | None = None) -> list[str]:
    """List the font files in `folders` (default: the system's), at any depth, always in the same order.

    Args:
        folders: folders or single font files.

    Returns:
        paths, each once, sorted by file name, then by path.

    Raises:
        FileNotFoundError: if one of the given `folders` does not exist (the system's may be missing).
    """
    asked = folders is not None
    found: set[str] = set()
    for folder in SYSTEM_FOLDERS if folders is None else folders:
        place = Path(folder).expanduser()
        if place.is_file():
            found.add(str(place))
        elif place.is_dir():
            found.update(
                str(p) for p in place.rglob("*") if p.suffix.lower() in FONT_SUFFIXES and p.is_file()
            )
        elif asked:
            raise FileNotFoundError(
                f"`fonts` must name folders or font files that exist, got {str(folder)!r}."
            )
    return sorted(found, key=lambda path: (os.path.basename(path), path))


def load_fonts(
    folders: Iterable[str | os.PathLike[str]] | None = None,
    *,
    minimum_legibility: float = 0.55,
    workers: int = 1,
    index_folder: str | os.PathLike[str] | None = None,
    further_characters: str = "",
) -> list[FontFace]:
    """Find the fonts that write letters and digits well, and weigh them.

    Looking at a thousand fonts takes about half a minute, so the outcome is kept in `index_folder` and read
    again while the files keep their names and sizes.

    Args:
        folders: as in `find_font_files`.
        minimum_legibility: faces below it are left out.
        workers: processes that look at fonts.
        index_folder: where outcomes are kept; default `$XDG_CACHE_HOME/modeling_rcmstr`.
        further_characters: characters beyond printable ASCII to look for; no font must have them.

    Returns:
        the faces, in the order of `find_font_files`; of faces with equal family and style only the first.

    Raises:
        NoUsableFontError: if none is left.
    """
    paths = find_font_files(folders)
    further = "".join(sorted(set(further_characters) - set(PRINTABLE_ASCII)))
    index = _index_path(paths, minimum_legibility, index_folder, further)
    if index.is_file():
        try:
            return [FontFace(**face) for face in json.loads(index.read_text())]
        except (OSError, ValueError, TypeError):
            index.unlink(missing_ok=True)  # cut short by a crash: look again
    faces = _judge(look_at_fonts(paths, workers, further), minimum_legibility)
    if not faces:
        where = "the system's font folders" if folders is None else ", ".join(map(str, folders))
        raise NoUsableFontError(
            "Drawing words needs at least one .ttf or .otf font with all of A-Z, a-z and 0-9; none of the "
            f"{len(paths)} font files in {where} is one. Run `bash training/install_fonts.sh fonts` and give "
            "`--fonts fonts`, or install a package such as fonts-dejavu-core."
        )
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        unfinished = index.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps([asdict(face) for face in faces]))
        unfinished.replace(index)
    except OSError:
        pass  # a read-only home costs time only
    return faces


def look_at_fonts(
    paths: Sequence[str], workers: int = 1, further_characters: str = ""
) -> list[tuple[FontFace, np.ndarray]]:
    """Rasterise each font's characters.

    Args:
        paths: font files; those that cannot be opened, or lack a letter or digit, are passed over.
        workers: processes.
        further_characters: characters beyond printable ASCII to look for.

    Returns:
        (face, thumbnails) for each font that draws all letters and digits; thumbnails is (62, 12, 12) uint8,
        and the face's `case`, `legibility` and `weight` are not judged yet.
    """
    if workers <= 1 or len(paths) < 32:
        looks = [_look_at_font(path, further_characters) for path in paths]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            look = partial(_look_at_font, further_characters=further_characters)
            looks = list(pool.map(look, paths, chunksize=16))
    return [look for look in looks if look is not None]


def _look_at_font(path: str, further_characters: str = "") -> tuple[FontFace, np.ndarray] | None:
    try:
        font = ImageFont.truetype(path, _LOOK_SIZE, layout_engine=ImageFont.Layout.BASIC)
        family, style = font.getname()
        # U+FDD0 is no character: whatever comes for it is the font's sign for "missing".
        missing = _glyph(font, "\ufdd0")
        masks = {character: _glyph(font, character) for character in PRINTABLE_ASCII + further_characters}
    except (OSError, ValueError, MemoryError):
        return None
    drawn = {c: m for c, m in masks.items() if m is not None and not _same(m, missing)}
    for character in further_characters:
        # A font that draws ä as a would make wrong labels.
        plain = unicodedata.normalize("NFD", character)[0]
        if plain != character and character in drawn and _same(drawn[character], drawn.get(plain)):
            del drawn[character]
    if not set(_ALPHANUMERIC) <= set(drawn):
        return None
    thumbnails = np.stack([_thumbnail(drawn[c]) for c in _ALPHANUMERIC])
    capitals = float(np.median([drawn[c].shape[0] for c in "EHITX"]))
    characters = "".join(c for c in PRINTABLE_ASCII + further_characters if c == " " or c in drawn)
    face = FontFace(
        path=path,
        family=family or Path(path).stem,
        style=style or "",
        characters=characters,
        case="both",
        capital_height=capitals / _LOOK_SIZE,
        stroke=_stroke(drawn, capitals),
        monospaced=font.getlength("i") == font.getlength("W"),
        legibility=1.0,
        weight=1.0,
    )
    return face, thumbnails


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    """Return the ink of a character, cropped to its box, or None when there is none (or absurdly much)."""
    mask = font.getmask(character, mode="L")
    width, height = mask.size
    if width == 0 or height == 0 or width > 400 or height > 400:
        return None
    pixels = np.asarray(mask, dtype=np.uint8).reshape(height, width)
    inked = pixels > 64
    if not inked.any():
        return None
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _same(mask: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and mask.shape == other.shape and np.array_equal(mask, other)


def _thumbnail(mask: np.ndarray) -> np.ndarray:
    """Fit a glyph into a square: stretched, but never by more than 2, so that an `l` stays a bar."""
    height, width = mask.shape
    side = max(height, width)
    high, wide = min(side, 2 * height), min(side, 2 * width)
    size = (max(1, round(wide * _THUMBNAIL / side)), max(1, round(high * _THUMBNAIL / side)))
    small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    square = np.zeros((_THUMBNAIL, _THUMBNAIL), np.uint8)
    top, left = (_THUMBNAIL - size[1]) // 2, (_THUMBNAIL - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    return square


def _stroke(drawn: dict[str, np.ndarray], capital_height: float) -> float:
    """Estimate the stroke's thickness as area over half the outline's length, over the capitals' height."""
    thicknesses = []
    for character in "HIELT":
        ink = np.pad(drawn[character] > 127, 1)
        outline = (ink[1:] != ink[:-1]).sum() + (ink[:, 1:] != ink[:, :-1]).sum()
        thicknesses.append(2.0 * ink.sum() / max(1, outline))
    return float(np.median(thicknesses)) / max(1.0, capital_height)


def _judge(looks: Sequence[tuple[FontFace, np.ndarray]], minimum_legibility: float) -> list[FontFace]:
    """Compare every font with the mean of all, twice: the second mean is taken over the legible ones."""
    if not looks:
        return []
    shapes = np.stack([thumbnails for _, thumbnails in looks]).astype(np.float32)
    shapes = shapes.reshape(len(looks), len(_ALPHANUMERIC), -1)
    legibility = np.ones(len(looks), np.float32)
    for _ in range(2):
        means = _normalised(shapes[legibility >= min(0.6, legibility.max())].mean(0))
        legibility = np.array([_legibility(_normalised(s), means) for s in shapes])
    seen: set[tuple[str, str]] = set()
    faces = []
    for (face, _), shape, legible in zip(looks, shapes, legibility, strict=True):
        if legible < minimum_legibility or (face.family, face.style) in seen:
            continue
        seen.add((face.family, face.style))
        faces.append(
            replace(face, case=_case(_normalised(shape), means), legibility=round(float(legible), 3))
        )
    sizes = Counter(face.family for face in faces)
    return [replace(face, weight=round(_weight(face, sizes[face.family]), 4)) for face in faces]


def _normalised(shapes: np.ndarray) -> np.ndarray:
    centred = shapes - shapes.mean(-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-6)


def _alike_table() -> np.ndarray:
    table = np.eye(len(_ALPHANUMERIC), dtype=bool)
    for group in _LOOKALIKES:
        places = [_ALPHANUMERIC.index(c) for c in group if c in _ALPHANUMERIC]
        table[np.ix_(places, places)] = True
    # The other case of a letter is no other letter.
    table[np.arange(26), np.arange(26) + 26] = table[np.arange(26) + 26, np.arange(26)] = True
    return table


_ALIKE = _alike_table()


def _legibility(shape: np.ndarray, means: np.ndarray) -> float:
    nearest = (shape @ means.T).argmax(-1)
    return float(_ALIKE[np.arange(len(_ALPHANUMERIC)), nearest].mean())


def _case(shape: np.ndarray, means: np.ndarray) -> str:
    lower = np.array([_ALPHANUMERIC.index(c) for c in _TWO_SHAPES])
    upper = lower - 26
    # Of 2,600 fonts, those with two cases lie below 0.6, small capitals above 0.7, nearly none between.
    if np.median((shape[lower] * shape[upper]).sum(-1)) < 0.65:
        return "both"
    # With one shape for both, say which case's mean it resembles.
    as_upper = (shape[upper] * means[upper]).sum(-1) > (shape[upper] * means[lower]).sum(-1)
    return "upper" if as_upper.mean() >= 0.5 else "lower"


def _weight(face: FontFace, family_size: int) -> float:
    """Weigh a face: large families less than by number, odd shapes and hairlines little, bold more."""
    plain = np.clip((face.legibility - 0.5) / 0.4, 0.1, 1.0) ** 2
    heft = float(
        np.interp(face.stroke, (0.03, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4), (0.08, 0.35, 0.8, 1.4, 1.7, 1.2, 0.5))
    )
    return float(plain * heft / np.sqrt(family_size))


def _index_path(
    paths: Sequence[str],
    minimum_legibility: float,
    index_folder: str | os.PathLike[str] | None,
    further_characters: str,
) -> Path:
    if index_folder is None:
        index_folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "modeling_rcmstr"
    key = hashlib.sha256(f"{_INDEX_VERSION} {minimum_legibility}{further_characters}".encode())
    for path in paths:
        key.update(f"\n{path} {os.path.getsize(path)}".encode())
    return Path(index_folder) / f"fonts-{key.hexdigest()[:24]}.json"
