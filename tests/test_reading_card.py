"""What the page shows of a reading: everything escaped, frames in their places, maps over their pixels."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr.reading_card import (
    CAPTIONS,
    HEAT,
    SURE_FROM,
    as_percent,
    download_links,
    example_buttons,
    overlay_saliency,
    reading_card,
    readings_table,
)
from modeling_rcmstr.saliency import ATTENTION, GRADIENT
from modeling_rcmstr.word_readings import WordReading, to_csv, to_json, to_tsv

NASTY = '<script>alert("1")</script>&'


class Elements(HTMLParser):
    """Collects the elements of a piece of HTML with their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def word_reading(text: str = "ab", name: str = "word.png", **fields: object) -> WordReading:
    content = BytesIO()
    Image.new("RGB", (80, 20), "white").save(content, format="JPEG")
    characters = [
        {"character": character, "score": score, "start": start, "end": start + 0.25}
        for character, score, start in zip(text, (SURE_FROM, 0.5), (0.125, 0.5), strict=False)
    ]
    values = {"name": name, "text": text, "score": 0.4567, "characters": characters, "size": (80, 20)}
    return WordReading(**{**values, "picture": content.getvalue(), **fields})  # type: ignore[arg-type]


def test_a_card_has_text_confidence_frames_and_characters() -> None:
    elements = Elements(reading_card(word_reading()))
    assert "abconfidence 45.7 %" in elements.text
    spans = [one for one in elements.of("span") if str(one.get("class")).startswith("span")]
    assert [one["class"] for one in spans] == ["span", "span unsure"]
    assert [one["style"] for one in spans] == ["left:12.50%;width:25.00%", "left:50.00%;width:25.00%"]
    assert [one["class"] for one in elements.of("li")] == ["", "unsure"]
    assert "90.0 %" in elements.text
    assert "50.0 %" in elements.text
    (image,) = elements.of("img")
    assert "word.png" in str(image["alt"])
    assert str(image["src"]).startswith("data:image/jpeg;base64,")


def test_what_files_and_models_say_is_only_text() -> None:
    ill = word_reading(NASTY, NASTY)
    failed = WordReading(NASTY, None, 0.0, [], None, NASTY)
    pieces = [reading_card(ill, np.ones((4, 8))), reading_card(failed), readings_table([ill, failed], 1)]
    for piece in pieces:
        elements = Elements(piece)
        assert not elements.of("script")
        assert NASTY in elements.text
    assert Elements(pieces[2]).text.count(NASTY) == 4, "name and text, name and error"


def test_characters_without_a_place_have_no_frame() -> None:
    characters = [{"character": "a", "score": 1.0, "start": None, "end": None}]
    elements = Elements(reading_card(word_reading(characters=characters)))
    assert len(elements.of("li")) == 1
    assert not [one for one in elements.of("span") if str(one.get("class")).startswith("span")]
    assert "no text" in Elements(reading_card(word_reading(text="", characters=[]))).text


def test_a_failure_is_an_alert_with_its_reason() -> None:
    elements = Elements(reading_card(WordReading("a.txt", None, 0.0, [], None, "is no image")))
    assert elements.found[0][1]["role"] == "alert"
    assert elements.text == "a.txt could not be read: is no image"


@pytest.mark.parametrize("kind", [GRADIENT, ATTENTION])
def test_a_map_comes_with_words_on_what_it_shows(kind: str) -> None:
    elements = Elements(reading_card(word_reading(), np.ones((4, 8)), kind))
    assert len(elements.of("img")) == 2
    assert " ".join(CAPTIONS[kind].split()) in elements.text.replace("'", "'")


def test_a_map_colours_its_pixels_and_no_others() -> None:
    picture = Image.new("RGB", (160, 40), "black")
    saliency = np.zeros((8, 32))
    saliency[:, 24:] = 3.0
    drawn = np.asarray(overlay_saliency(picture, saliency)).astype(int)
    assert drawn.shape == (40, 160, 3)
    assert np.abs(drawn[:, 140:] - HEAT).max() <= 2
    left = drawn[:, :100]
    assert np.ptp(left) <= 1, "faded, one grey"
    none = np.asarray(overlay_saliency(picture, np.zeros((8, 32)))).astype(int)
    assert np.abs(none - left[0, 0]).max() <= 1


def test_the_table_has_a_button_for_each_and_marks_the_shown() -> None:
    readings = [word_reading(), WordReading("b.txt", None, 0.0, [], None, "is no image")]
    elements = Elements(readings_table(readings, 2))
    assert [one["data-number"] for one in elements.of("button")] == ["1", "2"]
    assert [one.get("aria-current") for one in elements.of("tr")] == [None, None, "true"]
    for piece in ("All pictures (2)", "word.png", "45.7 %", "80 x 20", "b.txt", "is no image"):
        assert piece in elements.text


def test_downloads_hold_the_files_themselves() -> None:
    readings = [word_reading("é"), WordReading("b.txt", None, 0.0, [], None, "is no image")]
    links = Elements(download_links(readings)).of("a")
    assert [link["download"] for link in links] == ["readings.tsv", "readings.csv", "readings.json"]
    expected = (to_tsv(readings).encode(), to_csv(readings).encode("utf-8-sig"), to_json(readings).encode())
    for link, content in zip(links, expected, strict=True):
        assert base64.b64decode(re.sub("^.*;base64,", "", str(link["href"]))) == content
    assert download_links([]) == ""


def test_examples_are_named_buttons(tmp_path: Path) -> None:
    (tmp_path / "word.jpg").write_bytes(b"picture")
    elements = Elements(example_buttons([tmp_path / "word.jpg"]))
    assert [one["data-number"] for one in elements.of("button")] == ["1"]
    assert elements.of("img")[0]["alt"] == "Read example 1"
    assert example_buttons([]) == ""


def test_percent_is_that_of_the_command_line() -> None:
    assert [as_percent(score) for score in (0.98765, 1.0, 0.0)] == ["98.8 %", "100.0 %", "0.0 %"]
