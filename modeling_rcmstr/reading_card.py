"""One reading as a piece of a web page: the picture with its characters, the text, and the saliency map.

The page takes its colours from the variables of Gradio's themes, light or dark, and needs no file and no
network: pictures are in it. Everything that came from a file or a model is escaped.
"""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .word_readings import WordReading, to_csv, to_json, to_tsv

SURE_FROM = 0.9
# A map is drawn up to this share of its strongest pixels, over a picture that has lost this much contrast.
STRONGEST, FADED = 0.99, 0.6
HEAT = (222, 64, 8)
CAPTIONS = {
    "gradient": "Saliency: the stronger the colour, the more the text hangs on the pixel (integrated "
    "gradients of the read characters' log-odds).",
    "attention": "Saliency: where the decoder looked while it read (its attention, mean over the "
    "characters).",
}
STYLE = """
.rc { color: var(--body-text-color); }
.rc .figures { display: flex; flex-wrap: wrap; gap: 0 1.2rem; align-items: flex-start; }
.rc figure { margin: 0 0 .6rem; max-width: 100%; }
.rc .frame { position: relative; display: inline-block; max-width: 100%; line-height: 0;
  padding-bottom: 1.9rem; }
.rc .frame.plain { padding-bottom: 0; }
.rc .frame img { width: 100%; height: auto; margin: 0; border-radius: 3px; }
.rc .span { position: absolute; top: 0; bottom: 0; }
.rc .span i { position: absolute; left: 1px; right: 1px; top: 0; bottom: 1.9rem;
  border: 2px solid #1f9d63; border-radius: 3px; box-shadow: 0 0 0 1px #fffc; }
.rc .span b { position: absolute; left: -1rem; right: -1rem; bottom: 0; height: 1.7rem;
  font: 600 1.05rem/1.7rem ui-monospace, monospace; text-align: center; color: var(--body-text-color); }
.rc .unsure i { border: 2px dashed #e07a1f; }
.rc .text { font: 600 1.9rem/1.3 ui-sans-serif, system-ui, sans-serif; margin: 0;
  overflow-wrap: anywhere; white-space: pre-wrap; color: var(--body-text-color); }
.rc .text.none { font-weight: 400; font-style: italic; font-size: 1.3rem; }
.rc .line { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem; margin: 0 0 .9rem; }
.rc .score { font: 600 1.15rem/1.3 ui-sans-serif, system-ui, sans-serif; white-space: nowrap; }
.rc .faint { color: var(--body-text-color); opacity: .8; font-size: .85rem; line-height: 1.45; }
.rc ol { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; margin: 0 0 1rem; padding: 0; }
.rc li { margin: 0; padding: .15rem .5rem .3rem; border: 1px solid var(--border-color-primary);
  border-radius: 6px; text-align: center; min-width: 3.2rem; background: var(--background-fill-secondary); }
.rc li b { display: block; font: 600 1.1rem/1.4 ui-monospace, monospace; white-space: pre; }
.rc li span { font-size: .78rem; font-variant-numeric: tabular-nums; }
.rc li u { display: block; height: 3px; border-radius: 2px; background: #1f9d63; text-decoration: none; }
.rc li.unsure { border: 1px dashed #e07a1f; }
.rc li.unsure u { background: #e07a1f; }
.rc .problem { border-left: 4px solid #c8372d; padding: .5rem .9rem; margin: 0;
  background: var(--background-fill-secondary); overflow-wrap: anywhere; }
.rc .empty { border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 2.2rem 1rem;
  text-align: center; }
.rc a.download { display: inline-block; margin: 0 .5rem .4rem 0; padding: .4rem .9rem; border-radius: 6px;
  border: 1px solid var(--border-color-primary); background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); text-decoration: none; font-weight: 600; font-size: .95rem; }
.rc a.download:hover, .rc a.download:focus-visible { border-color: var(--color-accent); }
.rc a.download:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.rc h2 { font-size: .95rem; font-weight: 600; margin: .6rem 0 .4rem; color: var(--body-text-color); }
.rc .examples { display: flex; flex-wrap: wrap; gap: .4rem; padding: 3px; }
.rc .examples button { flex: none; padding: 3px; border: 1px solid var(--border-color-primary);
  border-radius: 6px; background: var(--background-fill-secondary); cursor: pointer; line-height: 0; }
.rc .examples img { height: 40px; width: auto; margin: 0; border-radius: 3px; }
.rc button:hover { border-color: var(--color-accent); }
.rc button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 1px; }
.rc .scroll { max-height: 26rem; overflow: auto; border: 1px solid var(--border-color-primary);
  border-radius: 8px; }
.rc table, .rc tbody, .rc thead { border: 0 !important; }
.rc table { border-collapse: collapse; width: 100%; margin: 0; font-size: .92rem; }
.rc th { position: sticky; top: 0; text-align: left; background: var(--background-fill-secondary);
  font-weight: 600; z-index: 1; }
.rc th, .rc td { padding: .4rem .7rem; border: 0 !important;
  overflow-wrap: anywhere; vertical-align: top; color: var(--body-text-color); }
.rc tr { border: 0 !important; border-top: 1px solid var(--border-color-primary) !important; }
.rc thead tr { border-top: 0 !important; }
.rc th:nth-child(3), .rc th:nth-child(4) { text-align: right; }
.rc td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.rc td.read { font-family: ui-monospace, Consolas, monospace; font-weight: 600; white-space: pre-wrap; }
.rc tr[aria-current] td { background: var(--background-fill-secondary); }
.rc tr[aria-current] td:first-child { box-shadow: inset 3px 0 0 var(--color-accent); }
.rc td button { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 0 .6rem;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color);
  cursor: pointer; text-align: left; overflow-wrap: anywhere; font: inherit; }
@media (max-width: 640px) {
  .rc thead { position: absolute; left: -9999px; }
  .rc tr { display: block; padding: .3rem 0; }
  .rc .examples { flex-wrap: nowrap; overflow-x: auto; padding-bottom: .5rem; }
  .rc td, .rc td.number { display: flex; gap: .6rem; padding: .12rem .7rem; text-align: left; }
  .rc td:empty { display: none; }
  .rc td::before { content: attr(data-label); flex: 0 0 5.6rem; font: .85rem ui-sans-serif, sans-serif; }
}
"""


def reading_card(reading: WordReading, saliency: np.ndarray | None = None, kind: str = "gradient") -> str:
    """Set one reading as HTML.

    Args:
        reading: what was read, or why nothing was.
        saliency: (H, W) map over the word, not negative; None to leave it out.
        kind: what the map shows, a key of `CAPTIONS`.

    Returns:
        HTML; needs `STYLE` on its page.
    """
    name = html.escape(reading.name)
    if reading.error:
        return (
            f'<div class="rc" role="alert"><p class="problem"><strong>{name}</strong> could not be read: '
            f"{html.escape(reading.error)}</p></div>"
        )
    width, height = reading.size or (0, 0)
    text = html.escape(reading.text or "")
    shown = f'<p class="text" id="read-text">{text}</p>' if text else '<p class="text none">no text</p>'
    mapped = caption = ""
    if saliency is not None:
        mapped, caption = _saliency_figure(reading, saliency), f'<p class="faint">{CAPTIONS[kind]}</p>'
    return (
        f'<div class="rc"><div class="line">{shown}'
        f'<span class="score">confidence {as_percent(reading.score)}</span></div>'
        f'<div class="figures">{_spans_figure(reading)}{mapped}</div>{_character_list(reading)}{caption}'
        f'<p class="faint">{name}, {width} x {height} pixels</p></div>'
    )


def readings_table(readings: Sequence[WordReading], shown: int) -> str:
    """Set readings as a table whose file names are buttons.

    Args:
        readings: what was read.
        shown: number, from 1, of the one that is shown now.

    Returns:
        HTML; each button has its reading's number, from 1, in `data-number`.
    """
    rows = []
    for number, reading in enumerate(readings, start=1):
        current = ' aria-current="true"' if number == shown else ""
        size = f"{reading.size[0]} x {reading.size[1]}" if reading.size else ""
        confidence = "" if reading.error else as_percent(reading.score)
        name = f'<button type="button" data-number="{number}">{html.escape(reading.name)}</button>'
        cells = (
            ("file", "", name),
            ("text", "read", html.escape(reading.text or "")),
            ("confidence", "number", confidence),
            ("size", "number", size),
            ("error", "", html.escape(reading.error)),
        )
        row = "".join(f'<td class="{kind}" data-label="{label}">{cell}</td>' for label, kind, cell in cells)
        rows.append(f"<tr{current}>{row}</tr>")
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("file", "text", "confidence", "size", "error")
    )
    return (
        f'<div class="rc"><h2>All pictures ({len(readings)})</h2><div class="scroll"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def example_buttons(words: Sequence[Path]) -> str:
    """Offer pictures as buttons, with their numbers, from 1, in `data-number`; nothing without pictures."""
    if not words:
        return ""
    buttons = "".join(
        f'<button type="button" data-number="{number}"><img alt="Read example {number}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(word.read_bytes()).decode()}"></button>'
        for number, word in enumerate(words, start=1)
    )
    return f'<div class="rc"><h2>Examples</h2><div class="examples">{buttons}</div></div>'


def download_links(readings: Sequence[WordReading]) -> str:
    """Offer readings as TSV, CSV and JSON files that lie in the page itself; nothing without readings."""
    if not readings:
        return ""
    kinds = (
        ("tsv", "text/tab-separated-values", to_tsv(readings).encode()),
        # Spreadsheets take CSV for UTF-8 by this mark.
        ("csv", "text/csv", to_csv(readings).encode("utf-8-sig")),
        ("json", "application/json", to_json(readings).encode()),
    )
    links = (
        f'<a class="download" download="readings.{suffix}" '
        f'href="data:{kind};base64,{base64.b64encode(content).decode()}">Download {suffix.upper()}</a>'
        for suffix, kind, content in kinds
    )
    return f'<div class="rc">{"".join(links)}</div>'


def overlay_saliency(picture: Image.Image, saliency: np.ndarray) -> Image.Image:
    """Colour a faded picture by a map.

    Args:
        picture: the upright picture.
        saliency: (H, W) map over the whole picture, not negative.

    Returns:
        RGB of the picture's size; without any saliency the faded picture.
    """
    strongest = float(np.quantile(saliency, STRONGEST)) or float(saliency.max())
    weights = np.clip(saliency / strongest, 0, 1) if strongest > 0 else np.zeros_like(saliency)
    layer = Image.fromarray(np.rint(255 * weights).astype(np.uint8))
    layer = layer.filter(ImageFilter.GaussianBlur(0.6)).resize(picture.size, Image.Resampling.BICUBIC)
    grey = picture.convert("L").convert("RGB")
    faded = Image.blend(grey, Image.new("RGB", picture.size, (235, 235, 235)), FADED)
    return Image.composite(Image.new("RGB", picture.size, HEAT), faded, layer)


def as_percent(score: float) -> str:
    """Say a probability as the command line does."""
    return f"{100 * score:.1f} %"


def _spans_figure(reading: WordReading) -> str:
    """Draw each character's frame on the picture, and the character under it."""
    spans = "".join(
        f'<span class="span{_unsure(one["score"])}" style="left:{100 * one["start"]:.2f}%;'
        f'width:{100 * (one["end"] - one["start"]):.2f}%"><i></i>'
        f"<b>{html.escape(one['character'])}</b></span>"
        for one in reading.characters
        if one["start"] is not None
    )
    alt = f"{reading.name}, the frames of its characters drawn on it"
    return _figure(Image.open(BytesIO(reading.picture)), "jpeg", reading.picture, alt, spans)


def _character_list(reading: WordReading) -> str:
    """List the characters with the probability of each."""
    items = "".join(
        f'<li class="{_unsure(one["score"]).strip()}"><b>{html.escape(one["character"])}</b>'
        f"<span>{as_percent(one['score'])}</span>"
        f'<u style="width:{100 * one["score"]:.0f}%" aria-hidden="true"></u></li>'
        for one in reading.characters
    )
    return f'<ol aria-label="Characters with their probabilities">{items}</ol>' if items else ""


def _saliency_figure(reading: WordReading, saliency: np.ndarray) -> str:
    """Draw the map on the picture."""
    picture = Image.open(BytesIO(reading.picture))
    content = BytesIO()
    overlay_saliency(picture, saliency).save(content, format="PNG")
    alt = f"{reading.name}, coloured where the read text comes from"
    return _figure(picture, "png", content.getvalue(), alt)


def _figure(picture: Image.Image, kind: str, content: bytes, alt: str, spans: str = "") -> str:
    """Set a picture that lies in the page itself, with what is drawn over it."""
    frame = "frame" if spans else "frame plain"
    return (
        f'<figure><div class="{frame}" style="width:{_shown_width(picture)}px">'
        f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
        f'<span aria-hidden="true">{spans}</span></div></figure>'
    )


def _shown_width(picture: Image.Image) -> int:
    """Show pictures at a height of about 110 pixels, so that letters are alike in size."""
    return max(120, min(720, round(110 * picture.width / picture.height)))


def _unsure(score: float) -> str:
    return "" if score >= SURE_FROM else " unsure"
