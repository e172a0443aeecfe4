"""A model card as a page, about as its readers on the Hub see it: metadata as labels above, then the text."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

STYLE = """
body { max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937; overflow-wrap: break-word;
  font: 16px/1.6 system-ui, "DejaVu Sans", sans-serif; }
h1, h2 { line-height: 1.25; }
h2 { border-bottom: 1px solid #e5e7eb; padding-bottom: .2rem; margin-top: 2rem; }
pre { background: #f3f4f6; padding: .8rem; border-radius: .4rem; overflow-x: auto; font-size: .85rem; }
code { background: #f3f4f6; border-radius: .2rem; padding: 0 .2rem; font-size: .9em; }
pre code { padding: 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .9rem; }
th, td { border: 1px solid #d1d5db; padding: .25rem .6rem; }
img { max-width: 100%; }
.labels span { display: inline-block; border: 1px solid #d1d5db; border-radius: 1rem; padding: 0 .6rem;
  margin: 0 .3rem .3rem 0; font-size: .8rem; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<p class="labels">{labels}</p>
{body}</body>
</html>
"""


def write_preview(text: str, path: Path, folder: Path) -> Path:
    """Write a card as one HTML file.

    Args:
        text: of the card.
        path: where the card lies; its pictures are found from there.
        folder: to write into; made when it does not exist.

    Returns:
        The page, called after the card's folder and name.
    """
    card = ModelCard(text)
    data = card.data.to_dict()
    keys = ("pipeline_tag", "library_name", "license", "language", "datasets", "metrics", "tags")
    labels = [f"{key}: {_joined(data[key])}" for key in keys if key in data]
    values = sum(
        len(result["metrics"]) for model in data.get("model-index", []) for result in model["results"]
    )
    labels += [f"model-index: {values} values"] if values else []
    body = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(card.text)
    place = os.path.relpath(path.parent, folder)
    body = re.sub(r'(src|href)="(?![a-z]+:|#)', rf'\1="{html.escape(place)}/', body)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{path.resolve().parent.name}-{path.stem}.html"
    spans = "".join(f"<span>{html.escape(label)}</span>" for label in labels)
    content = PAGE.format(title=html.escape(path.stem), style=STYLE, labels=spans, body=body)
    page.write_text(content, encoding="utf-8")
    return page


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
