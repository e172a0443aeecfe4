"""Synthetic words: pictures of text with the text, as signs and receipts show it, from fonts and a seed.

    renderer = WordRenderer(RenderingConfig(fonts=("fonts",), seed=1))
    word = renderer.render(0)                  # RenderedWord(image (32, W, 3) uint8 RGB, text)

`render(index)` is a pure function of the configuration, the fonts and the index: any number of workers may
share the indices in any order and get the same words. This module only puts the parts together: word_texts
and word_formats say what is written, word_fonts and word_glyphs in which letters, word_styles and
word_layers how they are made and what stands beside them, word_geometry how they lie, word_backgrounds and
word_painting in which colours and on what, word_effects what light and camera make of it. `python -m
training.render_words` writes shards.

The parts follow the recipe of MJSynth (arXiv:1406.2227, section 3) and SynthTiger (arXiv:2107.09313): font,
border and shadow, colour, projective distortion, blending, noise; neighbours' letters at the edges as in the
latter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from training.word_backgrounds import TextureBank, sample_palette
from training.word_effects import NoiseBank, blur, expose, is_legible, keep_readable, light
from training.word_fonts import FontFace, load_fonts
from training.word_geometry import InkBox, look, sample_pose
from training.word_glyphs import CAPITAL_HEIGHT, GlyphSource, Line
from training.word_layers import board_layers, paste, style_layers, tail_of, warp_layers
from training.word_painting import occlude, paint
from training.word_styles import Style, sample_style
from training.word_texts import Shares, TextConfig, TextSource

# Raised whenever the same settings give other words than before, so that runs of both are not mixed.
RENDERING_VERSION = 3
DOCUMENT_KINDS = (
    ("word", 0.3),
    ("sign_word", 0.2),
    ("number", 0.15),
    ("price", 0.15),
    ("code", 0.06),
    ("date", 0.05),
    ("time", 0.04),
    ("telephone", 0.03),
    ("address", 0.02),
)


@dataclass(frozen=True)
class RenderingConfig:
    """What to render.

    Args:
        fonts: folders or font files; None for the system's.
        seed: of everything; not negative.
        height: of every image in pixels.
        min_width: of an image in pixels.
        max_width: of an image in pixels; longer words are squeezed.
        texts: what is written.
        document_share: share of words that look printed or scanned instead of photographed.
        neighbour_share: share of words beside which parts of other words are seen.
        board_share: share of words on a board whose edge or frame is seen.
        occlusion_share: share of words with something thin in front of them.
        two_colour_share: share of words whose last letters have another colour.
        plain_share: share of words in black on white, sharp and alone, only slightly turned: for studies in
            which nothing but letters must tell words apart.
    """

    fonts: tuple[str, ...] | None = None
    seed: int = 0
    height: int = 32
    min_width: int = 12
    max_width: int = 512
    texts: TextConfig = field(default_factory=TextConfig)
    document_share: float = 0.12
    neighbour_share: float = 0.45
    board_share: float = 0.15
    occlusion_share: float = 0.03
    two_colour_share: float = 0.03
    plain_share: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.fonts, str):
            raise TypeError(
                f"`fonts` must be a tuple of folders, got the string {self.fonts!r}; write ({self.fonts!r},)."
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"`seed` must be from 0 to 2**64 - 1, got {self.seed}.")
        if not 16 <= self.height <= 128:
            raise ValueError(f"`height` must be from 16 to 128 pixels, got {self.height}.")
        if not 4 <= self.min_width < self.max_width:
            raise ValueError(
                f"`min_width` must be at least 4 and below `max_width`, "
                f"got {self.min_width} and {self.max_width}."
            )
        for name in (
            "document_share",
            "neighbour_share",
            "board_share",
            "occlusion_share",
            "two_colour_share",
            "plain_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share from 0 to 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class RenderedWord:
    """A picture of a word.

    Args:
        image: (H, W, 3) uint8 RGB.
        text: what is written, in true case.
    """

    image: np.ndarray
    text: str


class WordRenderer:
    """Renders the words of a configuration, each by its index.

    Args:
        config: what to render.
        faces: fonts already loaded (for worker processes); default: those of `config.fonts`.

    Raises:
        NoUsableFontError: if there is no font.
    """

    def __init__(self, config: RenderingConfig, faces: Sequence[FontFace] | None = None) -> None:
        # Words are small and workers many: threads inside an operation would only wait for each other.
        cv2.setNumThreads(0)
        self.config = config
        further = config.texts.further_characters
        self.faces = list(load_fonts(config.fonts, further_characters=further) if faces is None else faces)
        self._further = frozenset(further)
        missing = sorted(self._further.difference(*(face.characters for face in self.faces)))
        if missing:
            raise ValueError(
                f"none of the {len(self.faces)} fonts draws {', '.join(map(repr, missing))} of `charset`; "
                "give fonts that do (`fonts`), or leave the characters out."
            )
        self._glyphs = GlyphSource(self.faces)
        self._texts = TextSource(config.texts)
        self._document_kinds = Shares(DOCUMENT_KINDS)
        self._textures = TextureBank(config.height, config.max_width)
        self._noise = NoiseBank()
        weights = np.array([face.weight for face in self.faces])
        # Print is set in plain faces, half of it with characters of one width.
        plain = weights * [face.legibility > 0.85 and 0.06 < face.stroke < 0.22 for face in self.faces]
        single = plain * [face.monospaced for face in self.faces]
        plain = plain + single * (plain.sum() / max(float(single.sum()), 1e-6))
        self._edges = np.cumsum(weights)
        self._document_edges = np.cumsum(plain) if plain.any() else self._edges
        self._weights, self._document_weights = weights, plain if plain.any() else weights
        self._edges_with: dict[tuple[frozenset[str], bool], np.ndarray] = {}

    def render(self, index: int) -> RenderedWord:
        """Render word number `index` (0 or more)."""
        rng = np.random.Generator(np.random.Philox(key=[self.config.seed, index]))
        # Without plain words nothing is drawn for them, so that older configurations give what they gave.
        if self.config.plain_share and rng.random() < self.config.plain_share:
            return self._render_plain(rng)
        document = rng.random() < self.config.document_share
        text, font = self._text_and_font(rng, document)
        style = sample_style(rng, self.faces[font].stroke, document)
        line = self._set(rng, text, font, document)
        layers, box = self._canvas(rng, line, font, style, document)
        pose = sample_pose(rng, box.width / box.height, 0.25 if document else 1.0)
        view = look(
            box, pose, _margins(rng), self.config.height, (self.config.min_width, self.config.max_width)
        )
        seen = warp_layers(view, layers)
        image = self._photograph(rng, seen, style, document)
        for _ in range(3):
            if is_legible(image, seen["ink"]):
                break
            # Colours, light and blur met by chance so that nobody could read the label: take another picture.
            image = self._photograph(rng, seen, style, document)
        return RenderedWord(np.ascontiguousarray(image), text)

    def _render_plain(self, rng: np.random.Generator) -> RenderedWord:
        text, font = self._text_and_font(rng, True)
        ink, box, _ = self._place(self._glyphs.line(font, text))
        pose = sample_pose(rng, box.width / box.height, 0.25)
        view = look(
            box, pose, _margins(rng), self.config.height, (self.config.min_width, self.config.max_width)
        )
        paper = np.rint(255 * (1 - warp_layers(view, {"ink": ink})["ink"])).astype(np.uint8)
        return RenderedWord(np.repeat(paper, 3, axis=2), text)

    def _photograph(
        self, rng: np.random.Generator, seen: dict[str, np.ndarray], style: Style, document: bool
    ) -> np.ndarray:
        image = paint(rng, seen, style, sample_palette(rng, document), self._textures, document)
        if not document and rng.random() < self.config.occlusion_share:
            occlude(image, rng)
        contrast = keep_readable(light(image, rng, document), seen["ink"])
        pixels = blur(np.clip(image, 0, 255).astype(np.uint8), rng)
        return expose(pixels, rng, self._noise, contrast)

    def _text_and_font(self, rng: np.random.Generator, document: bool) -> tuple[str, int]:
        text = self._texts.sample(rng, self._document_kinds if document else None)
        edges = self._edges_for(text, document)
        for _ in range(12):
            font = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
            if self.faces[font].can_write(text):
                return text, font
        # A rare character: of the fonts left, the last drawn writes what it can.
        face = self.faces[font]
        text = text.upper() if face.case == "upper" else text.lower() if face.case == "lower" else text
        text = self._texts.fit("".join(c for c in text if c in face.characters))
        if text and face.can_write(text):
            return text, font
        return self._fallback_text(rng, face), font

    def _edges_for(self, text: str, document: bool) -> np.ndarray:
        """What fonts are drawn by: all, or those that have the text's characters beyond ASCII."""
        edges = self._document_edges if document else self._edges
        further = self._further.intersection(text)
        if not further:
            return edges
        key = (further, document)
        if key not in self._edges_with:
            has = np.array([further.issubset(face.characters) for face in self.faces])
            weights = next(
                (w * has for w in (self._document_weights, self._weights) if document and (w * has).any()),
                self._weights * has,
            )
            self._edges_with[key] = np.cumsum(weights) if weights.any() else edges
        return self._edges_with[key]

    def _fallback_text(self, rng: np.random.Generator, face: FontFace) -> str:
        letters = [c for c in self.config.texts.charset if c != " " and face.can_write(c)]
        if not letters:
            charset = self.config.texts.charset
            raise ValueError(
                f"Font {face.path} writes nothing of `charset` {charset!r}; give other fonts or characters."
            )
        return letters[int(rng.random() * len(letters))]

    def _set(self, rng: np.random.Generator, text: str, font: int, document: bool) -> Line:
        """Set the word: its letter spacing, now and then small capitals or letters that dance."""
        kind = rng.random()
        if document or " " in text:
            spacing = 0.0
        elif kind < 0.7:
            spacing = float(rng.normal()) * 0.02
        elif kind < 0.93:
            spacing = float(rng.uniform(0.03, 0.2))
        else:
            spacing = float(rng.uniform(0.2, 0.6)) if len(text) > 2 else 0.0
        rises = (
            rng.normal(0.0, rng.uniform(1.0, 4.0), len(text)) if not document and rng.random() < 0.04 else ()
        )
        small_capitals = text.isalpha() and text.isupper() and len(text) > 2 and rng.random() < 0.07
        scale = (1.2, 1.3, 1.4)[int(rng.random() * 3)] if small_capitals else 1.0
        return self._glyphs.line(font, text, spacing * CAPITAL_HEIGHT, scale, rises)

    def _place(self, line: Line) -> tuple[np.ndarray, InkBox, int]:
        """Put a word on an empty canvas; the canvas, where its ink lies, and its first row."""
        height, width = line.mask.shape
        # A dash alone is not blown up to a full word's height.
        box_height = max(height, round(0.6 * CAPITAL_HEIGHT))
        pad = round(0.8 * max(CAPITAL_HEIGHT, 0.8 * box_height))
        top = pad + (box_height - height) // 2
        canvas = np.zeros((box_height + 2 * pad, width + 2 * pad), np.uint8)
        canvas[top : top + height, pad : pad + width] = line.mask
        box = InkBox(pad, pad, width, box_height)
        return canvas, box, top

    def _canvas(
        self, rng: np.random.Generator, line: Line, font: int, style: Style, document: bool
    ) -> tuple[dict[str, np.ndarray], InkBox]:
        """Lay the word on a flat canvas with what surrounds it; one uint8 mask a layer."""
        canvas, box, top = self._place(line)
        layers = {}
        if rng.random() < self.config.neighbour_share:
            other = canvas if rng.random() < 0.75 else np.zeros_like(canvas)
            self._neighbours(rng, other, box, top + line.top, font)
            if other is not canvas:
                layers["neighbour"] = other
        if not document and rng.random() < self.config.board_share:
            layers.update(board_layers(rng, canvas.shape, box))
        layers.update(style_layers(canvas, style, box, CAPITAL_HEIGHT))
        if not document and rng.random() < self.config.two_colour_share:
            tail = tail_of(rng, layers["ink"], box)
            if tail is not None:
                layers["tail"] = tail
        return layers, box

    def _neighbours(
        self, rng: np.random.Generator, canvas: np.ndarray, box: InkBox, baseline: int, font: int
    ) -> None:
        """Write parts of other words above, below, left or right, no nearer than lines and words stand."""
        left, top, width, height = (int(v) for v in (box.left, box.top, box.width, box.height))
        for side in ("above", "below", "left", "right"):
            if rng.random() > (0.5 if side in ("above", "below") else 0.3):
                continue
            other = font
            if rng.random() < 0.3:
                other = int(np.searchsorted(self._edges, rng.random() * self._edges[-1], side="right"))
            text = self._texts.sample(rng)
            written = "".join(c for c in text if c in self.faces[other].characters)
            piece = self._glyphs.line(other, written[:12])
            mask = piece.mask
            if side in ("above", "below"):
                gap = round(rng.uniform(0.1, 0.55) * CAPITAL_HEIGHT)
                beside = round(rng.uniform(-0.6, 0.8) * max(width, mask.shape[1]))
                x = left + beside - (mask.shape[1] - width) // 2
                y = top - gap - mask.shape[0] if side == "above" else top + height + gap
            else:
                gap = round(rng.uniform(0.28, 0.6) * CAPITAL_HEIGHT)
                x = left - gap - mask.shape[1] if side == "left" else left + width + gap
                y = baseline - piece.top
            paste(canvas, mask, x, y)


def _margins(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw the room that annotators leave around a word: little as a rule, now and then less than none."""
    tight = rng.random() < 0.65
    sides = rng.normal(0.05, 0.06, 4) if tight else rng.uniform(0.05, 0.4, 4)
    left, top, right, bottom = np.clip(sides, (-0.05, -0.07, -0.05, -0.07), 0.4)
    return float(left), float(top), float(right), float(bottom)
