"""Draw the word images of this folder: signs, labels and notes, each in a hand-made style.

They give a fresh clone something to read that anybody may copy; they are neither training nor test data. The
fonts come from Debian packages under free licences (OFL-1.1, OFL-1.0 and MIT):

    apt-get install fonts-breip fonts-cabin fonts-kaushanscript fonts-lato \
        fonts-liberation2 fonts-lobster fonts-roadgeek
    python -m examples.render_examples /usr/share/fonts
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FOLDER = Path(__file__).resolve().parent
FONT_SIZE = 120  # pixels, at which a word is painted before it is made smaller

Painter = Callable[[Image.Image, np.random.Generator], Image.Image]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Example:
    """A word and how it looks.

    Args:
        text: what is written.
        font: file name of the font.
        paint: turns the coverage mask of the text ("L") into an RGB picture of the same size.
        height: pixels of the finished image.
        corners: a perspective: how far the corners that are shown (left top, left bottom, right bottom, right
            top) lie off the painted picture's own, as (x, y) fractions of its height.
        bend: rise of the word's middle over its ends as a fraction of the height; a curve.
        blur: radius in pixels of the finished image.
        noise: standard deviation in grey levels of the finished image.
        quality: of the JPEG.
    """

    text: str
    font: str
    paint: Painter
    height: int = 64
    corners: tuple[tuple[float, float], ...] = ((0, 0), (0, 0), (0, 0), (0, 0))
    bend: float = 0.0
    blur: float = 0.0
    noise: float = 3.0
    quality: int = 85


def texture(
    size: tuple[int, int], colour: Colour, amount: float, grain: int, random: np.random.Generator
) -> Image.Image:
    """Fill (width, height) with a colour and a smooth relief of `amount` grey levels, `grain` pixels wide."""
    width, height = size
    coarse = random.normal(0, 1, (height // grain + 2, width // grain + 2)).astype(np.float32)
    relief = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    pixels = np.asarray(colour, dtype=np.float32) + amount * relief[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def flat(ink: Colour, ground: Colour, amount: float = 6, grain: int = 60) -> Painter:
    """Plain ink on a slightly uneven ground."""

    def paint(mask: Image.Image, random: np.random.Generator) -> Image.Image:
        picture = texture(mask.size, ground, amount, grain, random)
        picture.paste(texture(mask.size, ink, amount / 2, grain, random), mask=mask)
        return picture

    return paint


def outlined(ink: Colour, edge: Colour, ground: Colour) -> Painter:
    """Ink with a wide edge and a soft shadow."""

    def paint(mask: Image.Image, random: np.random.Generator) -> Image.Image:
        picture = texture(mask.size, ground, 14, 40, random)
        wide = mask.filter(ImageFilter.MaxFilter(9))
        shadow = Image.new("L", mask.size)
        shadow.paste(wide, (7, 9))
        picture.paste(
            (20, 20, 20), mask=shadow.filter(ImageFilter.GaussianBlur(5)).point(lambda value: value * 0.6)
        )
        picture.paste(edge, mask=wide)
        picture.paste(ink, mask=mask)
        return picture

    return paint


def neon(glow: Colour) -> Painter:
    """A lit tube before bricks in the dark."""

    def paint(mask: Image.Image, random: np.random.Generator) -> Image.Image:
        picture = texture(mask.size, (48, 34, 32), 8, 12, random)
        draw = ImageDraw.Draw(picture)
        for row, top in enumerate(range(0, mask.height, 34)):
            draw.line([(0, top), (mask.width, top)], fill=(26, 20, 20), width=4)
            for left in range(-40 * (row % 2), mask.width, 80):
                draw.line([(left, top), (left, top + 34)], fill=(26, 20, 20), width=4)
        light = Image.new("RGB", mask.size)
        light.paste(glow, mask=mask)
        halo = np.asarray(light.filter(ImageFilter.GaussianBlur(16)), dtype=np.float32) * 1.6
        tube = np.asarray(light.filter(ImageFilter.GaussianBlur(3)), dtype=np.float32)
        core = np.asarray(mask.filter(ImageFilter.MinFilter(7)), dtype=np.float32)[..., None] * 0.6
        lit = np.asarray(picture, dtype=np.float32) + halo + tube + core
        return Image.fromarray(lit.clip(0, 255).astype(np.uint8))

    return paint


def worn(ink: Colour, ground: Colour, loss: float, grain: int) -> Painter:
    """Chalk, stencil or faded print: ink is missing where a relief of `grain` pixels is below `loss`."""

    def paint(mask: Image.Image, random: np.random.Generator) -> Image.Image:
        picture = texture(mask.size, ground, 10, 25, random)
        relief = np.asarray(texture(mask.size, (128, 128, 128), 50, grain, random))[..., 0]
        kept = np.clip((relief.astype(np.float32) - 255 * loss) * 6, 0, 255)
        cover = np.asarray(mask, dtype=np.float32) * kept / 255
        picture.paste(ink, mask=Image.fromarray(cover.astype(np.uint8)))
        return picture

    return paint


def striped(ink: Colour, stripes: tuple[Colour, Colour]) -> Painter:
    """An awning: ink across broad vertical stripes."""

    def paint(mask: Image.Image, random: np.random.Generator) -> Image.Image:
        picture = texture(mask.size, stripes[0], 6, 50, random)
        draw = ImageDraw.Draw(picture)
        for left in range(0, mask.width, 120):
            draw.rectangle([left, 0, left + 60, mask.height], fill=stripes[1])
        picture.paste((250, 246, 238), mask=mask.filter(ImageFilter.MaxFilter(7)))
        picture.paste(ink, mask=mask)
        return picture

    return paint


EXAMPLES = (
    Example("OPEN", "Lato-Bold.ttf", neon((255, 60, 90)), blur=0.6),
    Example("Bakery", "lobster.otf", striped((120, 30, 40), ((238, 226, 204), (206, 96, 84))), bend=0.12),
    Example(
        "EXIT",
        "RG2014D.ttf",
        flat((240, 246, 240), (10, 110, 70)),
        corners=((0, -0.2), (0, 0.25), (-0.05, -0.08), (0, 0.1)),
    ),
    Example(
        "$4.99",
        "Lato-Black.ttf",
        outlined((210, 20, 30), (255, 255, 255), (250, 210, 40)),
        corners=((0.1, 0.1), (0, 0.1), (0, -0.1), (0, -0.1)),
    ),
    Example("coffee", "KaushanScript-Regular.otf", worn((232, 232, 226), (44, 52, 48), 0.3, 5), height=72),
    Example("Platform", "Cabin-Bold.otf", flat((245, 245, 250), (26, 50, 120)), height=48, blur=0.8),
    Example("1984", "LiberationSerif-Bold.ttf", worn((60, 44, 30), (172, 130, 86), 0.33, 9), noise=6),
    Example(
        "MARKET",
        "Cabin-Bold.otf",
        outlined((252, 240, 200), (70, 40, 20), (140, 160, 120)),
        height=80,
        bend=0.35,
    ),
    Example(
        "info@example.org",
        "LiberationSans-Regular.ttf",
        flat((70, 70, 80), (236, 238, 242)),
        height=24,
        quality=60,
    ),
    Example("Thursday", "Breip.ttf", flat((30, 40, 120), (240, 236, 224), amount=8, grain=20), height=72),
    Example(
        "TAXI", "LiberationSans-Bold.ttf", flat((30, 26, 20), (150, 120, 20), amount=16), blur=1.6, noise=14
    ),
    Example(
        "TOTAL",
        "LiberationMono-Regular.ttf",
        worn((96, 92, 98), (226, 224, 216), 0.22, 7),
        height=40,
        corners=((0, 0.15), (0, 0.1), (0, -0.02), (0, -0.08)),
    ),
)


def text_mask(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw the text white on black with a margin, as one grey channel."""
    left, top, right, bottom = font.getbbox(text)
    margin = FONT_SIZE // 4
    mask = Image.new("L", (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin))
    ImageDraw.Draw(mask).text((margin - left, margin - top), text, font=font, fill=255)
    return mask


def bent(mask: Image.Image, bend: float) -> Image.Image:
    """Lift the middle of the word over its ends along a parabola, `bend` of its height."""
    rise = bend * mask.height
    out = Image.new("L", (mask.width, mask.height + round(rise)))
    for column in range(mask.width):
        across = 2 * column / mask.width - 1
        strip = mask.crop((column, 0, column + 1, mask.height))
        out.paste(strip, (column, round(rise * across**2)))
    return out


def in_perspective(picture: Image.Image, corners: tuple[tuple[float, float], ...]) -> Image.Image:
    """Show the quadrilateral that `Example.corners` describes; beyond the edges, the edges are repeated."""
    width, height = picture.size
    margin = height // 2
    columns = np.arange(-margin, width + margin).clip(0, width - 1)
    rows = np.arange(-margin, height + margin).clip(0, height - 1)
    wide = Image.fromarray(np.asarray(picture)[rows][:, columns])
    own = ((0, 0), (0, height), (width, height), (width, 0))
    quad = [
        margin + at + height * off
        for corner, shift in zip(own, corners, strict=True)
        for at, off in zip(corner, shift, strict=True)
    ]
    return wide.transform(picture.size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def render(example: Example, font: ImageFont.FreeTypeFont, random: np.random.Generator) -> Image.Image:
    """Paint one example large, bend and tilt it, then photograph it small."""
    mask = bent(text_mask(example.text, font), example.bend)
    picture = in_perspective(example.paint(mask, random), example.corners)
    width = round(picture.width * example.height / picture.height)
    picture = picture.resize((width, example.height), Image.Resampling.LANCZOS)
    picture = picture.filter(ImageFilter.GaussianBlur(example.blur))
    pixels = np.asarray(picture) + random.normal(0, example.noise, (example.height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    """Write the images and `labels.tsv` of this folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fonts", type=Path, help="folder that holds the fonts, at any depth")
    fonts = {path.name: path for path in parser.parse_args().fonts.rglob("*.?tf")}
    missing = sorted({example.font for example in EXAMPLES} - set(fonts))
    if missing:
        parser.error(
            f"fonts not found: {', '.join(missing)}; the packages that hold them are named in this file"
        )
    labels = []
    for number, example in enumerate(EXAMPLES, start=1):
        file = f"word_{number:02d}.jpg"
        font = ImageFont.truetype(str(fonts[example.font]), FONT_SIZE)
        image = render(example, font, np.random.default_rng(number))
        image.save(FOLDER / file, quality=example.quality)
        labels.append(f"{file}\t{example.text}\n")
    (FOLDER / "labels.tsv").write_text("".join(labels), encoding="utf-8")


if __name__ == "__main__":
    main()
