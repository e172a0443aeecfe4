"""Texts that hold a given character: words of the languages that write it, prices, and random strings.

Running text holds an é in one word of a hundred, and a ß or € in fewer. Whoever teaches a recogniser such
characters draws them on purpose: each of `TextConfig.emphasised` alike often. A letter stands in the words
that have it, the frequent ones first; one that hardly a word of the configured languages has takes the place
of a letter that looks like it, or of any. A currency sign stands at a price, any other mark beside a word. So
that no language is learned instead of a letter, a share of the texts is random.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeling_rcmstr.charset_mapping import look_alikes
from training.word_formats import between, digits, pick

if TYPE_CHECKING:
    from training.word_texts import TextSource

# With fewer words than this, a recogniser would learn the words by heart.
FEWEST_WORDS = 100
MOST_WORDS = 20_000
RANDOM_SHARE = 0.15


class EmphasisedTexts:
    """Texts that hold one of some characters.

    Args:
        characters: those to hold.
        word_lists: lists of lower-case words, the most frequent first.
        max_length: of a text.
    """

    def __init__(self, characters: str, word_lists: Sequence[Sequence[str]], max_length: int) -> None:
        self.characters = characters
        self.words: Mapping[str, list[str]] = {
            character: _words_with(character, word_lists, max_length)
            for character in characters
            if character.isalpha()
        }

    def draw(self, source: TextSource, rng: np.random.Generator) -> str:
        """Draw a text with one of the characters, written with the charset of `source`."""
        character = pick(rng, self.characters)
        for _ in range(4):
            text = source.fit(self._text(character, source, rng))
            if character in text:
                return text
        return character

    def _text(self, character: str, source: TextSource, rng: np.random.Generator) -> str:
        if rng.random() < RANDOM_SHARE:
            return _random_with(character, self.characters, source, rng)
        if unicodedata.category(character) == "Sc":
            return _price_with(character, rng)
        if not character.isalpha():
            return _beside(source.cased(source.plain_word(rng), rng), character, rng)
        words = self.words[character]
        if len(words) < FEWEST_WORDS:
            return _put_into(source.plain_word(rng), character, source, rng)
        word = words[int(len(words) * rng.random() ** 2)]
        title = word[:1].upper() + word[1:]
        # Straße has no capitals that hold the ß; a charset may lack the É of café.
        for written in (source.cased(word, rng), title if rng.random() < 0.5 else word, word, word.upper()):
            if character in written and source.can_write(written):
                return written
        return _put_into(source.plain_word(rng), character, source, rng)


def _words_with(character: str, word_lists: Sequence[Sequence[str]], max_length: int) -> list[str]:
    """Words that hold a letter, of all lists, by their rank among those of their list."""
    letter, folded = character.lower(), character.casefold()
    if len(folded) > 1:
        # The lists fold ß to ss.
        word_lists = [[w.replace(folded, letter, 1) for w in words if folded in w] for words in word_lists]
    found = [[w for w in words if letter in w and 1 < len(w) <= max_length] for words in word_lists]
    ranked = sorted((rank, word) for words in found for rank, word in enumerate(words))
    return list(dict.fromkeys(word for _, word in ranked))[:MOST_WORDS]


def _put_into(word: str, character: str, source: TextSource, rng: np.random.Generator) -> str:
    """Put a letter in the place of one that it looks like, or of any."""
    if character != character.lower():
        word = word.upper()
    word = word[: source.config.max_length]
    alike = look_alikes(character, dict.fromkeys(word, 0))
    places = [place for place, letter in enumerate(word) if letter in alike] or list(range(len(word)))
    place = int(rng.random() * len(places))
    return word[: places[place]] + character + word[places[place] + 1 :]


def _price_with(sign: str, rng: np.random.Generator) -> str:
    value = f"{int(10 ** (rng.random() * 3.3))}"
    if rng.random() < 0.7:
        value += pick(rng, ".,") + (digits(rng, 2) if rng.random() < 0.9 else "-")
    style = rng.random()
    return sign + value if style < 0.5 else value + sign if style < 0.75 else f"{value} {sign}"


def _beside(word: str, mark: str, rng: np.random.Generator) -> str:
    style = rng.random()
    if style < 0.4:
        return word + mark
    if style < 0.75:
        return mark + word
    place = between(rng, 0, len(word))
    return word[:place] + mark + word[place:]


def _random_with(character: str, others: str, source: TextSource, rng: np.random.Generator) -> str:
    letters = [c for c in source.config.charset if c.isalnum()] or [character]
    alphabet = [*letters, *others]
    drawn = [pick(rng, alphabet) for _ in range(between(rng, 1, min(7, source.config.max_length)))]
    drawn[int(rng.random() * len(drawn))] = character
    return "".join(drawn)
