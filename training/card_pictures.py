"""What a recogniser reads well and badly, in pictures: one fixed set of words, easy and hard, none left out.

The words of examples/ and harder ones that are drawn here (curves, turned and stacked words, blur, dots,
letters outside a charset) are read by the checkpoint; those that it reads to the character go onto one sheet,
the others onto another. Every picture is this repository's own, drawn with fonts that Matplotlib carries, so
a card may be published with them. The files lie in the folder `card` beside the weights:

    reads_rightly.jpg, reads_wrongly.jpg    the sheets; one that would be empty is not there
    readings.json                           what was read, how surely, and by which weights
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from examples.render_examples import FONT_SIZE, bent, flat, outlined, text_mask, worn
from training.benchmark_measurement import checkpoint_hash
from training.run_state import write_json_file
from training.word_readers import open_reader

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CARD_FOLDER = "card"
READINGS_FILE = "readings.json"
SHEETS = {True: "reads_rightly.jpg", False: "reads_wrongly.jpg"}
WORD_HEIGHT = 64
COLUMNS, CELL_WIDTH, PICTURE_HEIGHT, LINE_HEIGHT, MARGIN = 4, 252, 72, 24, 12
SCORE_DIGITS = 3
QUALITY = 72
INK = {True: (22, 101, 52), False: (176, 28, 28)}
GREY = (85, 85, 85)
DARK, LIGHT = (35, 32, 30), (238, 234, 224)


@dataclass(frozen=True)
class CardWord:
    """A word to read.

    Args:
        kind: what is easy or hard about it, for people.
        label: what it says.
        image: RGB.
    """

    kind: str
    label: str
    image: Image.Image


@dataclass(frozen=True)
class CardReading:
    """What a checkpoint read in a word; it is right when the text equals the label to the character."""

    kind: str
    label: str
    text: str
    score: float

    @property
    def correct(self) -> bool:
        """Whether it was read rightly."""
        return self.text == self.label


def write_card_pictures(checkpoint: Path, folder: Path | None = None) -> Path:
    """Let a checkpoint read the card's words and write sheets and readings.

    Args:
        checkpoint: folder of a recogniser.
        folder: to write into; default: `card` beside the weights.

    Returns:
        The folder.

    Raises:
        ValueError: when the checkpoint is no recogniser.
    """
    folder = folder or checkpoint / CARD_FOLDER
    words = card_words()
    readings = read_card_words(checkpoint, words)
    folder.mkdir(parents=True, exist_ok=True)
    for correct, file in SHEETS.items():
        chosen = [pair for pair in zip(words, readings, strict=True) if pair[1].correct == correct]
        (folder / file).unlink(missing_ok=True)
        if chosen:
            draw_card_sheet(chosen).save(folder / file, quality=QUALITY, optimize=True)
    content = {
        "checkpoint_sha256": checkpoint_hash(checkpoint),
        "words": [asdict(reading) for reading in readings],
    }
    write_json_file(folder / READINGS_FILE, content)
    return folder


def read_card_words(checkpoint: Path, words: Sequence[CardWord]) -> list[CardReading]:
    """Read words one by one, as a user who tries them would."""
    reader = open_reader(checkpoint, batch_size=1)
    answers = reader([word.image for word in words])
    return [
        CardReading(word.kind, word.label, answer["text"], round(float(answer["score"]), SCORE_DIGITS))
        for word, answer in zip(words, answers, strict=True)
    ]


def card_words() -> list[CardWord]:
    """The words of examples/ and the harder ones, always the same."""
    lines = (EXAMPLES / "labels.tsv").read_text(encoding="utf-8").splitlines()
    files = [line.split("\t") for line in lines]
    found = [CardWord(EXAMPLE_KINDS[label], label, _opened(EXAMPLES / file)) for file, label in files]
    return found + [
        CardWord(kind, label, make(label, np.random.default_rng(number)))
        for number, (kind, label, make) in enumerate(HARD_WORDS)
    ]


def draw_card_sheet(words: Iterable[tuple[CardWord, CardReading]]) -> Image.Image:
    """Words in rows of four, under each what was read, how surely, and, where it is wrong, what it says."""
    pairs = list(words)
    lines_below = 2 if all(reading.correct for _, reading in pairs) else 3
    cell_height = PICTURE_HEIGHT + lines_below * LINE_HEIGHT + MARGIN
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL_WIDTH + MARGIN, rows * cell_height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (word, reading) in enumerate(pairs):
        x = number % COLUMNS * CELL_WIDTH + MARGIN
        y = number // COLUMNS * cell_height + MARGIN
        sheet.paste(_fitted(word.image), (x, y))
        lines = [(reading.text or "(nothing)", INK[reading.correct], _font("Sans-Bold", 18))]
        if not reading.correct:
            lines.append((f"is {reading.label}", GREY, _font("Sans", 15)))
        lines.append((f"{100 * reading.score:.0f} %, {word.kind}", GREY, _font("Sans", 15)))
        for line, (text, colour, font) in enumerate(lines):
            draw.text((x, y + PICTURE_HEIGHT + 2 + line * LINE_HEIGHT), _cut(text, font), colour, font)
    return sheet


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _fitted(image: Image.Image) -> Image.Image:
    room = CELL_WIDTH - MARGIN, PICTURE_HEIGHT
    scale = min(room[0] / image.width, room[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _cut(text: str, font: ImageFont.FreeTypeFont) -> str:
    while text and font.getlength(text) > CELL_WIDTH - MARGIN:
        text = text[:-2] + "…"
    return text


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of the DejaVu family, which Matplotlib carries."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVu{name}.ttf", size)


# What is easy or hard about each word of examples/, by its label.
EXAMPLE_KINDS = {
    "OPEN": "neon tube",
    "Bakery": "on stripes",
    "EXIT": "sign from the side",
    "$4.99": "price tag",
    "coffee": "brush script, chalk",
    "Platform": "sign, a little blurred",
    "1984": "worn serif",
    "MARKET": "outlined, curved",
    "info@example.org": "24 pixels high",
    "Thursday": "handwriting",
    "TAXI": "dim and blurred",
    "TOTAL": "faded receipt",
}

Maker = Callable[[str, np.random.Generator], Image.Image]


def _drawn(
    font: str = "Sans-Bold",
    painter: Callable[[Image.Image, np.random.Generator], Image.Image] | None = None,
    bend: float = 0.0,
    turn: float = 0.0,
    height: int = WORD_HEIGHT,
) -> Maker:
    """A word in ink, bent along a parabola, turned by degrees against the clock, and photographed small."""

    def make(text: str, random: np.random.Generator) -> Image.Image:
        mask = bent(text_mask(text, _font(font, FONT_SIZE)), bend)
        if turn:
            mask = mask.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        picture = (painter or flat(DARK, LIGHT))(mask, random)
        size = max(1, round(picture.width * height / picture.height)), height
        return picture.resize(size, Image.Resampling.LANCZOS)

    return make


def _blurred(radius: float) -> Maker:
    make = _drawn()
    return lambda text, random: make(text, random).filter(ImageFilter.GaussianBlur(radius))


def _noisy(sigma: float) -> Maker:
    def make(text: str, random: np.random.Generator) -> Image.Image:
        pixels = np.asarray(_drawn()(text, random))
        return Image.fromarray((pixels + random.normal(0, sigma, pixels.shape)).clip(0, 255).astype(np.uint8))

    return make


def _covered(text: str, random: np.random.Generator) -> Image.Image:
    """A grey post before the middle of the word."""
    picture = _drawn()(text, random)
    middle, half = picture.width // 2, picture.width // 14
    ImageDraw.Draw(picture).rectangle([middle - half, 0, middle + half, picture.height], fill=(120, 118, 112))
    return picture


def _dotted(text: str, random: np.random.Generator) -> Image.Image:  # noqa: ARG001
    """Amber lamps in nine rows: a departure board."""
    mask = text_mask(text, _font("SansMono", FONT_SIZE))
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    columns = round((right - left) * 9 / (bottom - top))
    cells = np.asarray(mask.crop((left, top, right, bottom)).resize((columns, 9), Image.Resampling.BOX))
    pitch = 8
    picture = Image.new("RGB", ((columns + 4) * pitch, 13 * pitch), (22, 20, 18))
    draw = ImageDraw.Draw(picture)
    for row, column in np.argwhere(cells > 110):
        x, y = (column + 2) * pitch, (row + 2) * pitch
        draw.ellipse([x, y, x + pitch - 3, y + pitch - 3], fill=(255, 176, 40))
    return picture


def _stacked(text: str, random: np.random.Generator) -> Image.Image:
    """A hotel sign: letter under letter."""
    letters = [text_mask(letter, _font("Sans-Bold", FONT_SIZE)) for letter in text]
    width = max(letter.width for letter in letters)
    mask = Image.new("L", (width, sum(letter.height for letter in letters)))
    top = 0
    for letter in letters:
        mask.paste(letter, ((width - letter.width) // 2, top))
        top += letter.height
    picture = flat((245, 240, 230), (150, 20, 30))(mask, random)
    return picture.resize((round(picture.width * 160 / picture.height), 160), Image.Resampling.LANCZOS)


HARD_WORDS: Sequence[tuple[str, str, Maker]] = (
    ("serif, sharp", "Library", _drawn("Serif")),
    ("typewriter", "No.42/b", _drawn("SansMono")),
    ("two words", "NO ENTRY", _drawn("Sans-Bold", flat((250, 250, 250), (170, 20, 30)))),
    ("long", "incomprehensible", _drawn("Serif")),
    ("turned by 8 degrees", "Museum", _drawn(turn=8)),
    ("turned by 30 degrees", "Museum", _drawn(turn=30)),
    ("curved", "HARBOUR", _drawn(painter=outlined((252, 240, 200), (70, 40, 20), (96, 120, 140)), bend=0.5)),
    ("strongly curved", "HARBOUR", _drawn(bend=1.6, height=96)),
    ("set vertically", "Station", _drawn(turn=90, height=200)),
    ("letter under letter", "HOTEL", _stacked),
    ("upside down", "Garden", _drawn(turn=180)),
    ("dots of lamps", "Gate B17", _dotted),
    ("noise", "Pharmacy", _noisy(60)),
    ("weak contrast", "quiet", _drawn(painter=flat((196, 192, 184), (214, 210, 202), amount=3))),
    ("worn", "Warehouse", _drawn(painter=worn((120, 116, 112), (206, 200, 190), 0.42, 7))),
    ("blur", "Platform", _blurred(2.5)),
    ("strong blur", "Platform", _blurred(5)),
    ("12 pixels high", "Pharmacy", _drawn(height=12)),
    ("8 pixels high", "Pharmacy", _drawn(height=8)),
    ("partly covered", "SUPERMARKET", _covered),
    ("look-alikes", "I1l0O", _drawn()),
    ("case by size only", "s", _drawn()),
    ("letters outside ASCII", "Käsespätzle", _drawn("Serif")),
    ("another script", "Привет", _drawn()),
)


def describe_pictures(readings: Sequence[CardReading]) -> dict[bool, str]:
    """For each sheet, its words as one text, for those who do not see it."""
    texts = {
        correct: "; ".join(
            f"{one.label} ({one.kind})" if correct else f"{one.label} read as {one.text or 'nothing'}"
            for one in readings
            if one.correct == correct
        )
        for correct in SHEETS
    }
    return {correct: textwrap.shorten(text, 2000) for correct, text in texts.items()}


def parse_readings(content: dict[str, Any]) -> list[CardReading]:
    """The readings of a `readings.json`."""
    return [CardReading(**word) for word in content["words"]]
