"""The page: everything in one file, the numbers those of the analysis, whatever labels say."""

import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.benchmark_measurement import ReaderReport, Readings, report_reader
from training.benchmark_report import (
    LARGEST_PICTURE,
    analyse,
    percent,
    picture_of,
    write_benchmark_report,
)
from training.benchmark_sets import BenchmarkSet
from training.error_analysis import make_records

Words = list[tuple[Image.Image, str]]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class PageReader(html.parser.HTMLParser):
    """Collects what a page holds, and refuses elements that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(page: Path) -> PageReader:
    reader = PageReader()
    reader.feed(page.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def pipeline(images: list[Any]) -> list[dict[str, Any]]:
    """Reads every distorted image as "book"."""
    return [{"text": "book", "score": 0.5} for _ in images]


def measured(
    words: Words, texts: list[str], confidences: list[float]
) -> tuple[list[BenchmarkSet], ReaderReport]:
    half = len(words) // 2
    sets, readings = [], {}
    for name, part in (("one", slice(0, half)), ("two", slice(half, None))):
        images, labels = [image for image, _ in words[part]], [label for _, label in words[part]]
        sets.append(BenchmarkSet(name, images, labels, f"hash{name}"))
        readings[name] = Readings(texts[part], confidences[part], 0, 2.0)
    return sets, report_reader("ours", sets, {"both": ["one", "two"]}, readings)


@pytest.fixture
def measurement() -> dict[str, Any]:
    """What `describe_measurement` says, as far as the page shows it."""
    return {
        "checkpoint": {"name": "tiny", "sha256": "ab" * 32, "architectures": None},
        "protocol": {"name": "rule-1", "text": "Lower case."},
        "benchmark": None,
        "limit": None,
        "batch_size": 32,
        "machine": {"cpu": "A processor", "threads": 2, "torch": "2"},
    }


def test_the_page_stands_alone_and_states_what_was_measured(
    tmp_path: Path, eight_words: Words, measurement: dict[str, Any]
) -> None:
    texts = ["book", "exit", "42nd", "mi1k", "hello", "wow", "vp", "zigzag"]
    confidences = [0.99, 0.9, 0.8, 0.7, 0.95, 0.6, 0.4, 0.85]
    sets, ours = measured(eight_words, texts, confidences)
    page = write_benchmark_report(tmp_path / "out", measurement, sets, [ours, ours], pipeline, 0.95)
    content = page.read_text(encoding="utf-8")
    found = read_page(page)
    # Nothing is loaded: pictures are data, references stay on the page.
    for tag, attributes in found.elements:
        assert tag not in {"script", "link", "iframe"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", content)
    text = " ".join(" ".join(found.texts).split())
    assert "62.5 % 5 of 8 words" in text
    assert text.count("hashone") == 2
    assert "Speed 2 words a second, 2 threads" in text
    assert "mean of the sets 62.5" in text
    for label in ("mi1k", "zigzag7", "vp"):
        assert label in text


def test_the_page_is_made_for_everybody(
    tmp_path: Path, eight_words: Words, measurement: dict[str, Any]
) -> None:
    sets, ours = measured(eight_words, ["x"] * 8, [0.5] * 8)
    found = read_page(write_benchmark_report(tmp_path, measurement, sets, [ours], pipeline, 0.95))
    tags = [tag for tag, _ in found.elements]
    assert found.elements[0] == ("html", {"lang": "en"})
    assert tags.count("h1") == tags.count("main") == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        attributes for tag, attributes in found.elements if tag == "meta"
    ]
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    for tag, attributes in found.elements:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in {"row", "col"}
        if (attributes.get("href") or "").startswith("#") and tag == "a":
            assert (attributes["href"] or "")[1:] in identifiers
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_labels_are_text_never_markup(tmp_path: Path, measurement: dict[str, Any]) -> None:
    nasty = '"><script>alert(1)</script>&$x^2$'
    words = [(Image.new("RGB", (40, 20)), nasty), (Image.new("RGB", (40, 20)), "b")]
    sets, ours = measured(words, ["<b>", nasty], [0.5, 0.6])
    found = read_page(write_benchmark_report(tmp_path, measurement, sets, [ours], pipeline, 0.95))
    assert "script" not in [tag for tag, _ in found.elements]
    assert nasty in "".join(found.texts)


def test_results_hold_the_whole_analysis(
    tmp_path: Path, eight_words: Words, measurement: dict[str, Any]
) -> None:
    labels = [label for _, label in eight_words]
    sets, ours = measured(eight_words, labels[:7] + ["zigzag1"], [0.9] * 7 + [0.2])
    write_benchmark_report(tmp_path, measurement, sets, [ours], pipeline, 0.99)
    analysis = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["analysis"]
    whole, one, two = analysis["calibration"]
    assert [part["name"] for part in (whole, one, two)] == ["all words", "one", "two"]
    assert whole["coverage"] == {"precision": 1.0, "coverage": 7 / 8, "threshold": 0.9}
    assert whole["error"] == pytest.approx((7 * 0.1 + 0.2) / 8)
    assert analysis["confusions"] == [{"label": "7", "read": "1", "count": 1, "share": 1.0}]
    assert analysis["robustness_words"] == 8
    # The reader of distorted images always says "book", which is one of eight.
    assert {point["accuracy"] for curve in analysis["robustness"] for point in curve["points"]} == {1 / 8}
    assert sum(group["count"] for group in analysis["by_height"]) == 8


def test_notices_limits_and_perfect_readings_have_their_place(
    tmp_path: Path, eight_words: Words, measurement: dict[str, Any]
) -> None:
    sets, ours = measured(eight_words, [label for _, label in eight_words], [0.5] * 8)
    benchmark = {"name": "all-sizes", "text": "every set", "averaged": False, "notices": ["SVT is missing."]}
    found = read_page(
        write_benchmark_report(
            tmp_path, {**measurement, "benchmark": benchmark, "limit": 4}, sets, [ours], pipeline, 0.95
        )
    )
    text = " ".join(" ".join(found.texts).split())
    assert "Not the whole protocol. SVT is missing." in text
    assert "Only the first 4 words of each set were read." in text
    assert "No readable word was read wrongly." in text
    assert "Most frequent confusions" not in text
    assert "mean of the sets" not in text


def test_unreadable_images_are_counted_but_not_shown(tmp_path: Path, measurement: dict[str, Any]) -> None:
    sets = [BenchmarkSet("lost", ["nowhere.png"], ["door"], "f")]
    ours = report_reader("ours", sets, {}, {"lost": Readings([""], [0.0], 1, 1.0)})
    found = read_page(write_benchmark_report(tmp_path, measurement, sets, [ours], pipeline, 0.95))
    text = " ".join(" ".join(found.texts).split())
    assert "0.0 % 0 of 1 words" in text
    assert "Worse images" in text
    assert "img" not in [tag for tag, _ in found.elements]


def test_words_without_letters_or_digits_give_no_report(tmp_path: Path, measurement: dict[str, Any]) -> None:
    sets = [BenchmarkSet("dots", [np.zeros((8, 8, 3), np.uint8)], ["..."], "f")]
    ours = report_reader("ours", sets, {}, {"dots": Readings(["a"], [0.5], 0, 1.0)})
    with pytest.raises(ValueError, match="no label has a letter or digit"):
        write_benchmark_report(tmp_path, measurement, sets, [ours], pipeline, 0.95)


def test_one_set_needs_no_row_for_all(eight_words: Words) -> None:
    sets, ours = measured(eight_words, ["x"] * 8, [0.5] * 8)
    records = make_records(sets[:1], ours.readings)
    analysis = analyse(records, pipeline, 0.95)
    assert [part.name for part in analysis.calibration] == ["one"]
    assert analysis.calibration[0].coverage is None


def test_pictures_are_small_and_of_the_word() -> None:
    large = Image.new("RGB", (2000, 400), (200, 10, 10))
    uri = picture_of(large)
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 4000
    assert large.size == (2000, 400)
    assert LARGEST_PICTURE == (320, 96)


def test_shares_are_shown_in_percent() -> None:
    assert (percent(0.12345), percent(1.0, 0), percent(None), percent(math.nan)) == (
        "12.3",
        "100",
        "\u2013",
        "\u2013",
    )
