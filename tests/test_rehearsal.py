from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeling_rcmstr import CharacterTokenizer
from training.charset_arguments import CharsetArguments
from training.rehearsal import (
    character_record,
    count_words_by_character,
    open_rehearsal,
    rehearsal_weight,
    writable_charset,
)


@pytest.fixture
def tokenizer() -> CharacterTokenizer:
    return CharacterTokenizer(charset="ascii-95").extended("ä€")


@pytest.fixture
def rendering(tmp_path: Path, accented_font: Path) -> Path:
    texts = {"languages": [["en", 1.0]], "max_length": 8, "emphasis": 0.5}
    path = tmp_path / "rehearsal.yaml"
    path.write_text(yaml.safe_dump({"fonts": [str(accented_font)], "seed": 1, "texts": texts}))
    return path


def settings(rendering: Path, share: float = 0.5) -> CharsetArguments:
    return CharsetArguments(charset_add="ä€a", rehearsal_share=share, rehearsal_rendering=str(rendering))


def test_rehearsal_writes_old_and_new_characters(tokenizer: CharacterTokenizer, rendering: Path) -> None:
    source = open_rehearsal(settings(rendering), tokenizer, "ä€")
    assert source is not None
    texts = [source.text(index) for index in range(120)]
    holding = sum(bool(set(text) & set("ä€")) for text in texts) / len(texts)
    assert 0.35 < holding < 0.65
    assert len(set("".join(texts)) & set("0123456789abcdefghijklmnopqrstuvwxyz")) > 25
    assert source.config.texts.charset == tokenizer.charset


def test_old_characters_beyond_ascii_are_emphasised_too(
    tokenizer: CharacterTokenizer, rendering: Path
) -> None:
    source = open_rehearsal(settings(rendering), tokenizer, "€")
    assert source is not None
    assert source.config.texts.emphasised == "ä€"


def test_without_a_share_there_is_none(tokenizer: CharacterTokenizer) -> None:
    assert open_rehearsal(CharsetArguments(), tokenizer, "ä€") is None


def test_a_charset_of_its_own_is_refused(
    tokenizer: CharacterTokenizer, rendering: Path, accented_font: Path
) -> None:
    content = {"fonts": [str(accented_font)], "texts": {"charset": "abc"}}
    rendering.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"leave `texts\.charset` out, got 'abc'"):
        open_rehearsal(settings(rendering), tokenizer, "ä€")


def test_fonts_that_lack_a_character_are_refused(
    tokenizer: CharacterTokenizer, rendering: Path, good_font: Path
) -> None:
    rendering.write_text(yaml.safe_dump({"fonts": [str(good_font)], "texts": {"emphasis": 0.5}}))
    with pytest.raises(ValueError, match="none of the 1 fonts draws 'ä', '€' of `charset`; give"):
        open_rehearsal(settings(rendering), tokenizer, "ä€")


def test_capitals_are_rendered_for_a_recogniser_of_small_letters(accented_font: Path) -> None:
    fonts = [str(accented_font)]
    assert writable_charset(CharacterTokenizer(charset="0abß", do_lower_case=True), fonts) == "0abßAB"
    # No capital Ä is in the font.
    assert writable_charset(CharacterTokenizer(charset="aä", do_lower_case=True), fonts) == "aäA"
    assert writable_charset(CharacterTokenizer(charset="0ab"), fonts) == "0ab"


def test_the_weight_gives_the_share() -> None:
    arguments = CharsetArguments(rehearsal_share=0.25, rehearsal_rendering="x")
    weight = rehearsal_weight(arguments, [1, 2])
    assert weight / (weight + 3) == pytest.approx(0.25)


def test_words_are_counted_once_a_character(tokenizer: CharacterTokenizer) -> None:
    counts = count_words_by_character(["äää", "a\u0308b", "b"], tokenizer)
    assert (counts["ä"], counts["b"]) == (2, 2)


def record(tokenizer: Any, counts: dict[str, int], share: float, rendered: bool = False) -> dict[str, Any]:
    arguments = CharsetArguments(charset_add="ä€a", rehearsal_share=share, rehearsal_rendering="x")
    return character_record(arguments, tokenizer, "ä€", Counter(counts), rendered)


def test_the_record_names_new_and_present_characters(tokenizer: CharacterTokenizer) -> None:
    found = record(tokenizer, {"ä": 3, "€": 1}, 0.5)
    assert (found["added"], found["present_already"]) == ("ä€", "a")
    assert found["words_with_new_character"] == {"ä": 3, "€": 1}
    assert found["warnings"] == []


def test_forgetting_is_warned_of_and_enough_words_are_not(tokenizer: CharacterTokenizer) -> None:
    few = dict.fromkeys(tokenizer.charset, 20) | {"q": 19, "Z": 0}
    (warning,) = record(tokenizer, few, 0.0)["warnings"]
    assert "each of the 2 old characters 'qZ'" in warning
    assert record(tokenizer, dict.fromkeys(tokenizer.charset, 20), 0.0)["warnings"] == []
    assert record(tokenizer, few, 0.5)["warnings"] == []


def test_a_new_character_that_nothing_holds_is_refused_or_warned_of(tokenizer: CharacterTokenizer) -> None:
    with pytest.raises(ValueError, match=r"no training word holds '€' of `charset\.add`.*rehearsal_share"):
        record(tokenizer, {"ä": 5}, 0.0)
    (warning,) = record(tokenizer, {"ä": 5}, 0.5)["warnings"]
    assert "no word of a file holds '€'" in warning
    assert (
        "learned from rendered words alone" in record(tokenizer, {"ä": 5}, 0.0, rendered=True)["warnings"][0]
    )
