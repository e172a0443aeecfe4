import re

import numpy as np
import pytest

from training.word_fonts import PRINTABLE_ASCII
from training.word_formats import Shares
from training.word_texts import TEXT_KINDS, TextConfig, TextSource, word_list

ENGLISH = (("en", 1.0),)


@pytest.fixture(scope="module")
def source() -> TextSource:
    return TextSource(TextConfig(languages=ENGLISH))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def test_the_same_generator_writes_the_same_texts(source: TextSource) -> None:
    first, second = generator(5), generator(5)
    assert [source.sample(first) for _ in range(50)] == [source.sample(second) for _ in range(50)]


def test_texts_keep_to_charset_and_length(source: TextSource) -> None:
    rng = generator()
    for _ in range(3000):
        text = source.sample(rng)
        assert 1 <= len(text) <= 25
        assert set(text) <= set(PRINTABLE_ASCII)
        assert text == text.strip()


@pytest.mark.parametrize("charset", ["0123456789abcdefghijklmnopqrstuvwxyz", "0123456789", "ABC", "#"])
def test_any_charset_is_kept(charset: str) -> None:
    source = TextSource(TextConfig(charset=charset, languages=ENGLISH, max_length=8))
    rng = generator()
    for _ in range(300):
        text = source.sample(rng)
        assert 1 <= len(text) <= 8
        assert set(text) <= set(charset)


def test_a_letter_of_a_missing_case_is_written_in_the_other() -> None:
    source = TextSource(TextConfig(charset="abcdefghijklmnopqrstuvwxyz", languages=ENGLISH))
    assert source.fit("Hello-World 7") == "helloworld"


def test_texts_are_shared_out_as_scene_words_are(source: TextSource) -> None:
    rng = generator()
    texts = [source.sample(rng) for _ in range(6000)]
    words = [t for t in texts if t.isalpha() and len(t) > 1]
    assert 0.4 < sum(t.isupper() for t in words) / len(words) < 0.6
    assert 0.15 < sum(t.istitle() for t in words) / len(words) < 0.35
    assert 0.12 < sum(t.islower() for t in words) / len(words) < 0.3
    assert 0.1 < sum(any(c.isdigit() for c in t) for t in texts) / len(texts) < 0.22
    assert 0.01 < sum(" " in t for t in texts) / len(texts) < 0.06
    assert sum(3 <= len(t) <= 9 for t in texts) / len(texts) > 0.7
    assert set("".join(texts)) >= set(PRINTABLE_ASCII) - set("{}|~^\\`_=<>[]")


def test_tempering_spreads_words_over_ranks() -> None:
    ranks = {word: rank for rank, word in enumerate(word_list("en"))}
    medians = []
    for tempering in (0.0, 0.75, 1.5):
        source, rng = TextSource(TextConfig(languages=ENGLISH, tempering=tempering)), generator()
        medians.append(np.median([ranks[source.plain_word(rng)] for _ in range(500)]))
    assert medians[0] > medians[1] > medians[2]
    assert medians[0] == pytest.approx(len(ranks) / 2, rel=0.2)  # all alike


def test_word_lists_hold_words_of_letters_only() -> None:
    words = word_list("en")
    assert words[0] == "the"
    assert len(words) > 100_000
    assert all(re.fullmatch(r"[a-z']+", word) for word in words)


def test_an_unknown_language_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"'xx'.*en"):
        word_list("xx")


@pytest.mark.parametrize("kind", sorted(TEXT_KINDS))
def test_every_kind_can_be_asked_for_alone(source: TextSource, kind: str) -> None:
    rng, only = generator(), Shares(((kind, 1.0),))
    assert len({source.sample(rng, only) for _ in range(60)}) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charset": "aa"}, "charset"),
        ({"charset": " "}, "charset"),
        ({"max_length": 0}, "max_length"),
        ({"kinds": (("poem", 1.0),)}, r"poem.*word"),
        ({"cases": (("upper", -1.0),)}, "cases"),
        ({"cases": (("upper", 0.0),)}, "cases"),
        ({"punctuation": 1.5}, "punctuation"),
    ],
)
def test_wrong_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextConfig(**change)


def test_a_charset_beyond_ascii_admits_the_words_written_with_it() -> None:
    german = (("de", 1.0),)
    config = TextConfig(charset=PRINTABLE_ASCII + "äöü", languages=german, kinds=(("word", 1.0),))
    rng = generator()
    assert config.further_characters == "äöü"
    source = TextSource(config)
    texts = [source.sample(rng) for _ in range(800)]
    assert any(set(text) & set("äöü") for text in texts)
    assert set("".join(texts)) <= set(config.charset)
