"""The page shows what the card says: labels, tables, pictures found from where the page lies."""

from pathlib import Path

from training.card_preview import write_preview

CARD = """---
language: en
license: apache-2.0
tags:
- ocr
- <b>
---

# Reads

| a | b |
|---|---|
| 1 | 2 |

![words](card/a.jpg) [site](https://example.org) [below](#x)
"""


def test_a_page_has_labels_tables_and_pictures(tmp_path: Path) -> None:
    page = write_preview(CARD, tmp_path / "mine" / "README.md", tmp_path / "pages")
    assert page == tmp_path / "pages" / "mine-README.html"
    text = page.read_text(encoding="utf-8")
    assert "<h1>Reads</h1>" in text
    assert "<td>1</td>" in text
    assert 'src="../mine/card/a.jpg"' in text
    assert 'href="https://example.org"' in text
    assert 'href="#x"' in text
    assert "<span>license: apache-2.0</span>" in text
    assert "<span>tags: ocr, &lt;b&gt;</span>" in text
    assert "model-index" not in text
