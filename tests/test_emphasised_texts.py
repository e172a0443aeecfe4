from collections import Counter

import numpy as np
import pytest

from training.emphasised_texts import EmphasisedTexts
from training.word_fonts import PRINTABLE_ASCII
from training.word_texts import TextConfig, TextSource

NEW = "€äß°ł"


@pytest.fixture(scope="module")
def source() -> TextSource:
    languages = (("en", 0.5), ("de", 0.5))
    return TextSource(
        TextConfig(
            charset=PRINTABLE_ASCII + NEW, languages=languages, emphasised=NEW, emphasis=1.0, max_length=12
        )
    )


def texts_of(source: TextSource, count: int = 1500) -> list[str]:
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    return [source.sample(rng) for _ in range(count)]


def test_every_text_holds_a_new_character_each_alike_often(source: TextSource) -> None:
    texts = texts_of(source)
    assert all(set(text) & set(NEW) for text in texts)
    assert all(1 <= len(text) <= 12 and text == text.strip() for text in texts)
    assert set("".join(texts)) <= set(PRINTABLE_ASCII + NEW)
    counts = Counter(character for text in texts for character in set(text) & set(NEW))
    assert all(0.7 * 300 < counts[character] < 1.5 * 300 for character in NEW), counts


def test_characters_stand_where_they_belong(source: TextSource) -> None:
    texts = texts_of(source)
    words = {text.lower() for text in texts}
    assert any(len(word) > 4 and "ä" in word and word.isalpha() for word in words)
    # The word lists fold ß to ss.
    assert any("ß" in word and len(word) > 4 for word in words)
    prices = [text for text in texts if "€" in text and any(c.isdigit() for c in text)]
    assert len(prices) > 100
    # ł is in hardly a word of these languages: it takes the place of an l in others.
    assert sum("ł" in text and len(text) > 3 for text in texts) > 100


def test_a_charset_without_capitals_of_a_letter_keeps_it_small(source: TextSource) -> None:
    assert not any("Ä" in text or "ẞ" in text for text in texts_of(source))


def test_the_same_generator_draws_the_same_texts(source: TextSource) -> None:
    assert texts_of(source, 50) == texts_of(source, 50)


def test_words_are_ranked_over_their_lists() -> None:
    texts = EmphasisedTexts("äß", [["ä", "bär", "nass", "käse"], ["x", "säge"]], max_length=4)
    assert texts.words["ä"] == ["bär", "säge", "käse"]
    assert texts.words["ß"] == ["naß"]


def test_emphasis_leaves_a_share_of_ordinary_texts() -> None:
    config = TextConfig(charset=PRINTABLE_ASCII + "€", languages=(("en", 1.0),), emphasised="€", emphasis=0.3)
    texts = texts_of(TextSource(config), 1000)
    assert 0.24 < sum("€" in text for text in texts) / 1000 < 0.36


def test_what_is_emphasised_must_be_in_the_charset() -> None:
    with pytest.raises(ValueError, match="must lie in `charset`, which lacks"):
        TextConfig(emphasised="ä", emphasis=0.5)
    with pytest.raises(ValueError, match="`emphasis` needs `emphasised`"):
        TextConfig(emphasis=0.5)
    with pytest.raises(ValueError, match="share from 0 to 1, got 2"):
        TextConfig(emphasised="a", emphasis=2)
