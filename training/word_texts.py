"""What synthetic words say: the texts of shop fronts, street signs, labels, screens and receipts.

Words come from frequency lists (package `wordfreq`, which carries its data) in English and, less often, other
languages written with the same letters; names and brands are among them. Ranks are tempered, so that rare
words are seen too. Beside words there are numbers, prices, dates, times, telephone numbers, codes and number
plates, e-mail and web addresses, and random strings, which keep a recogniser from guessing words that the
pixels do not show.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from training.emphasised_texts import EmphasisedTexts
from training.word_fonts import PRINTABLE_ASCII
from training.word_formats import (
    LOWER,
    UPPER,
    Shares,
    abbreviation,
    between,
    clock_time,
    code,
    date,
    digits,
    number,
    pick,
    price,
    random_string,
    telephone,
)

# What signs say much more often than running text does.
_SIGN_TEXT = """
sale open closed exit entrance push pull stop street road avenue lane drive park parking hotel restaurant
cafe bar coffee tea pizza bakery market shop store mall bank atm pharmacy salon school museum theatre
theater cinema station taxi bus metro police fire hospital clinic dental library center centre plaza square
garden house inn motel club gym fitness studio gallery books music fashion shoes jewelry outlet discount
special offer free new hot fresh food grill sushi thai chinese indian italian mexican burger chicken fish
noodle rice beer wine spirits bistro diner kitchen deli express caution warning danger notice no smoking
private property keep clear way out in toilet ladies gentlemen lift stairs floor level room office reception
information ticket tickets welcome please thank you total subtotal cash change tax amount date time table
qty price invoice receipt rounding item description cashier member card visa tel fax www com north south
east west upper lower grand royal city town village beach lake river hill valley bridge tower court terrace
place building suite company limited ltd inc services insurance travel repair cleaners laundry nails hair
spa beauty auto tires car wash rental rent sold phone mobile computer digital photo video games toys speed
limit one only left right turn ahead zone crossing yield
"""
SIGN_WORDS = tuple(_SIGN_TEXT.split())
_DOMAINS = ("com", "com", "com", "net", "org", "co.uk", "de", "fr", "com.my", "com.sg", "info", "edu")


@dataclass(frozen=True)
class TextConfig:
    """The mixture of texts.

    Args:
        charset: characters that may be written; a letter missing in one case is written in the other.
        max_length: longest text in characters.
        languages: (code, share) of the word lists.
        tempering: a word of rank r is drawn in proportion to (r + 20) ** -tempering; 0 draws all alike, 1 is
            like running text.
        kinds: (name, share) of the kinds of text; names as in `TEXT_KINDS`.
        cases: (name, share) of how words are written: "upper", "title", "lower", "mixed".
        punctuation: share of words with punctuation attached.
        emphasised: characters of the charset that are to be met often, such as a recogniser's new ones.
        emphasis: share of all texts that hold one of them on purpose, each alike often.
    """

    charset: str = PRINTABLE_ASCII
    max_length: int = 25
    languages: tuple[tuple[str, float], ...] = (
        ("en", 0.8),
        ("fr", 0.05),
        ("de", 0.05),
        ("es", 0.04),
        ("it", 0.03),
        ("ms", 0.015),
        ("nl", 0.015),
    )
    tempering: float = 0.75
    kinds: tuple[tuple[str, float], ...] = (
        ("word", 0.67),
        ("sign_word", 0.1),
        ("number", 0.055),
        ("price", 0.03),
        ("code", 0.03),
        ("random", 0.035),
        ("phrase", 0.025),
        ("date", 0.01),
        ("time", 0.01),
        ("telephone", 0.01),
        ("abbreviation", 0.015),
        ("address", 0.01),
    )
    cases: tuple[tuple[str, float], ...] = (
        ("upper", 0.47),
        ("title", 0.27),
        ("lower", 0.22),
        ("mixed", 0.04),
    )
    punctuation: float = 0.06
    emphasised: str = ""
    emphasis: float = 0.0

    def __post_init__(self) -> None:
        if not self.charset.strip() or len(set(self.charset)) != len(self.charset):
            raise ValueError(
                f"`charset` must hold different characters, one of them no space, got {self.charset!r}."
            )
        if self.max_length < 1:
            raise ValueError(f"`max_length` must be at least 1 character, got {self.max_length}.")
        for name, known in (("kinds", tuple(TEXT_KINDS)), ("cases", ("upper", "title", "lower", "mixed"))):
            shares = getattr(self, name)
            unknown = [kind for kind, _ in shares if kind not in known]
            if unknown:
                raise ValueError(f"`{name}` names {unknown}; known are {list(known)}.")
            if any(share < 0 for _, share in shares) or sum(share for _, share in shares) <= 0:
                raise ValueError(f"`{name}` needs shares that are not negative and not all 0, got {shares}.")
        if not 0 <= self.punctuation <= 1:
            raise ValueError(f"`punctuation` is a share from 0 to 1, got {self.punctuation}.")
        if not 0 <= self.emphasis <= 1:
            raise ValueError(f"`emphasis` is a share from 0 to 1, got {self.emphasis}.")
        if self.emphasis and not self.emphasised:
            raise ValueError("`emphasis` needs `emphasised`, the characters that the texts shall hold.")
        if outside := sorted(set(self.emphasised) - set(self.charset)):
            raise ValueError(f"`emphasised` must lie in `charset`, which lacks {outside}.")

    @property
    def further_characters(self) -> str:
        """The characters beyond printable ASCII."""
        return "".join(c for c in self.charset if c not in PRINTABLE_ASCII)


@lru_cache(maxsize=16)
def word_list(language: str, letters: str = UPPER + LOWER) -> tuple[str, ...]:
    """Load the words of a language that `letters` can write, the most frequent first, in lower case.

    Raises:
        ImportError: if `wordfreq` is not installed.
        ValueError: if it does not know the language.
    """
    try:
        import wordfreq
    except ImportError as error:
        raise ImportError(
            "Drawing words needs their list: `pip install wordfreq` (or the `train` extra)."
        ) from error
    try:
        words = wordfreq.top_n_list(language, 300_000)
    except LookupError as error:
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise ValueError(f"`languages` names {language!r}; wordfreq knows {known}.") from error
    allowed = set(letters.lower()) | {"'"}
    # Single letters other than these are noise of the counting.
    return tuple(w for w in words if set(w) <= allowed and (len(w) > 1 or w in "ai"))


class TextSource:
    """Texts drawn from a `TextConfig`.

    Args:
        config: the mixture.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self._charset = frozenset(config.charset)
        self._unspaced = [c for c in config.charset if c != " "]
        # Letters beyond ASCII admit the words that are written with them.
        further = "".join(c for c in config.charset if c.isalpha() and not c.isascii())
        letters = UPPER + LOWER + further
        self._words = {language: word_list(language, letters) for language, _ in config.languages}
        self._ranks = {
            language: np.cumsum((np.arange(len(words)) + 20.0) ** -config.tempering)
            for language, words in self._words.items()
        }
        self._languages = Shares(config.languages)
        self._kinds = Shares(config.kinds)
        self._cases = Shares(config.cases)
        self._emphasised = EmphasisedTexts(
            config.emphasised if config.emphasis else "", list(self._words.values()), config.max_length
        )

    def sample(self, rng: np.random.Generator, kinds: Shares | None = None) -> str:
        """Draw one text: 1 to `max_length` characters of the charset, no space at its ends.

        Args:
            rng: where all chance comes from.
            kinds: another mixture of kinds than the configuration's.
        """
        # Without emphasis nothing is drawn for it, so that older configurations give what they gave.
        if self.config.emphasis and rng.random() < self.config.emphasis:
            return self._emphasised.draw(self, rng)
        for _ in range(8):
            text = self.fit(TEXT_KINDS[(kinds or self._kinds).pick(rng)](self, rng))
            if text and (len(text) > 1 or text.isalnum() or rng.random() < 0.05):
                return text
        return "".join(
            pick(rng, self._unspaced) for _ in range(1 + int(rng.random() * min(6, self.config.max_length)))
        )

    def fit(self, text: str) -> str:
        """Write `text` with the charset: in the other case if need be, without what cannot be written."""
        charset = self._charset
        if not charset.issuperset(text):
            text = "".join(c if c in charset else c.swapcase() for c in text)
            text = "".join(c for c in text if c in charset)
        return " ".join(text[: self.config.max_length].split())

    def can_write(self, text: str) -> bool:
        """Tell whether `fit` leaves `text` as it is."""
        return self.fit(text) == text

    def plain_word(self, rng: np.random.Generator) -> str:
        """Draw a word in lower case, as its list has it."""
        language = self._languages.pick(rng)
        ranks = self._ranks[language]
        return self._words[language][int(np.searchsorted(ranks, rng.random() * ranks[-1]))]

    def cased(self, word: str, rng: np.random.Generator) -> str:
        """Write a word as signs do."""
        case = self._cases.pick(rng)
        if case == "upper":
            return word.upper()
        if case == "title":
            return word[:1].upper() + word[1:]
        if case == "lower":
            return word
        style = rng.random()
        if style < 0.35 and len(word) > 4:  # McKinney, TrinityLeeds, iPad
            cut = 1 + int(rng.random() * (len(word) - 2))
            head = word[:cut] if cut == 1 else word[:1].upper() + word[1:cut]
            return head + word[cut].upper() + word[cut + 1 :]
        if style < 0.5:
            return word[:1] + word[1:].upper()
        return "".join(c.upper() if rng.random() < 0.5 else c for c in word)


def _address(source: TextSource, rng: np.random.Generator) -> str:
    name, domain = source.plain_word(rng).replace("'", ""), pick(rng, _DOMAINS)
    style = rng.random()
    if style < 0.35:
        text = f"www.{name}.{domain}"
    elif style < 0.6:
        text = f"{name}.{domain}"
    elif style < 0.85:
        text = f"{pick(rng, ('info', 'sales', 'mail', 'contact', source.plain_word(rng)))}@{name}.{domain}"
    else:
        text = pick(rng, "@#") + name + (digits(rng, 2) if rng.random() < 0.3 else "")
    return text.upper() if rng.random() < 0.15 else text


def _word(source: TextSource, rng: np.random.Generator) -> str:
    return _punctuated(source, source.cased(source.plain_word(rng), rng), rng)


def _sign_word(source: TextSource, rng: np.random.Generator) -> str:
    return _punctuated(source, source.cased(pick(rng, SIGN_WORDS), rng), rng)


def _punctuated(source: TextSource, word: str, rng: np.random.Generator) -> str:
    if rng.random() >= source.config.punctuation:
        return word
    style = rng.random()
    if style < 0.6:
        return word + pick(
            rng, (".", ",", ":", "!", "?", ";", "'s", "...", "!!", "-", "&", "*", "/", "'", ")")
        )
    if style < 0.75:
        return pick(rng, ("(", "-", "*", '"', "#", "@", "&", "'", "$")) + word
    if style < 0.85:
        marks = pick(rng, ("()", '""', "''", "[]", "**", "<>", "--"))
        return marks[0] + word + marks[1]
    if style < 0.93:
        return word + pick(rng, "-/&'+.") + source.cased(pick(rng, SIGN_WORDS), rng)
    return word + digits(rng, between(rng, 1, 3))


def _phrase(source: TextSource, rng: np.random.Generator) -> str:
    count = 2 if rng.random() < 0.8 else 3
    words = [pick(rng, SIGN_WORDS) if rng.random() < 0.4 else source.plain_word(rng) for _ in range(count)]
    text = " ".join(words)
    case = rng.random()
    return text.upper() if case < 0.5 else text.title().replace("'S", "'s") if case < 0.85 else text


TEXT_KINDS: dict[str, Callable[[TextSource, np.random.Generator], str]] = {
    "word": _word,
    "sign_word": _sign_word,
    "phrase": _phrase,
    "address": _address,
    "number": lambda _, rng: number(rng),
    "price": lambda _, rng: price(rng),
    "date": lambda _, rng: date(rng),
    "time": lambda _, rng: clock_time(rng),
    "telephone": lambda _, rng: telephone(rng),
    "code": lambda _, rng: code(rng),
    "random": lambda _, rng: random_string(rng),
    "abbreviation": lambda _, rng: abbreviation(rng),
}
