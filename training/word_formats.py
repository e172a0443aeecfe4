"""Texts that follow a form, not a language: numbers, prices, dates, times, telephones, codes, random strings.

Each function draws one text from a generator. Words, phrases and addresses are in word_texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from training.word_fonts import PRINTABLE_ASCII

UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOWER = UPPER.lower()
DIGITS = "0123456789"
# In these, A stands for a capital and 0 for a digit.
_CODES = (
    *(
        "AA00",
        "A0",
        "A00",
        "A0A",
        "0A",
        "00A",
        "AAA000",
        "000AAA",
        "AAA_0000",
        "AA00_AAA",
        "AA0A_0AA",
        "AAA-0000",
    ),
    *("00-00", "A-00", "AA-000", "000-A", "#00-00", "AA/00", "AA000000", "0000000A", "00000-A", "A0000-00"),
    "(000000-A)",
)
_TELEPHONES = (
    *(
        "000-000-0000",
        "000.000.0000",
        "(000)",
        "000-0000",
        "00-0000000",
        "0000_0000",
        "00000000",
        "0000000000",
    ),
    "+00",
)
_CURRENCIES = ("RM", "US$", "S$", "EUR", "USD", "Rs.", "AU$")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STREETS = ("ST", "AVE", "RD", "DR", "BLVD", "LN", "HWY", "PL", "CT", "SQ")
_UNITS = ("st", "nd", "rd", "th", "km", "kg", "g", "ml", "m", "cm", "L", "A", "B", "GB", "mm", "oz", "hr")


@dataclass(frozen=True)
class Shares:
    """Names with shares, made ready for drawing.

    Args:
        shares: (name, share) pairs; the shares need not sum to 1.
    """

    shares: tuple[tuple[str, float], ...]
    edges: list[float] = field(init=False)

    def __post_init__(self) -> None:
        total = sum(share for _, share in self.shares)
        object.__setattr__(self, "edges", [float(e) for e in np.cumsum([s / total for _, s in self.shares])])

    def pick(self, rng: np.random.Generator) -> str:
        """Draw a name."""
        at = rng.random()
        for (name, share), edge in zip(self.shares, self.edges, strict=True):
            if at < edge and share > 0:
                return name
        return next(name for name, share in reversed(self.shares) if share > 0)


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Draw one of `options`, all alike."""
    return options[int(rng.random() * len(options))]


def digits(rng: np.random.Generator, count: int) -> str:
    """Draw `count` digits."""
    return "".join(DIGITS[int(d)] for d in rng.random(count) * 10)


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def shaped(rng: np.random.Generator, shape: str) -> str:
    """Fill a shape: A becomes a capital, 0 a digit, _ a space; the rest stays."""
    filled = (pick(rng, UPPER) if c == "A" else pick(rng, DIGITS) if c == "0" else c for c in shape)
    return "".join(filled).replace("_", " ")


def number(rng: np.random.Generator) -> str:
    """Draw a house number, a size, a year, a share, a decimal, a number with a unit."""
    style = rng.random()
    # Short numbers are the common ones.
    count = 1 + min(int(rng.exponential(2.0)), 9)
    plain = digits(rng, count)
    if style < 0.6:
        return plain if count == 1 or plain[0] != "0" or rng.random() < 0.1 else "1" + plain[1:]
    if style < 0.68:
        return str(between(rng, 1900, 2030))
    if style < 0.75:
        return f"{between(rng, 1, 100)}%"
    if style < 0.8:
        return pick(rng, ("#", "No.", "+", "-", "x", "@")) + plain
    if style < 0.85:
        return f"{between(rng, 1, 99)}-{between(rng, 1, 199)}"
    if style < 0.9:
        return f"{between(rng, 1, 999)},{digits(rng, 3)}"
    if style < 0.95:
        return f"{between(rng, 0, 99)}.{digits(rng, between(rng, 1, 3))}"
    return plain + pick(rng, _UNITS)


def price(rng: np.random.Generator) -> str:
    """Draw a price from 1 to 1,995, mostly small, with or without its currency."""
    value = f"{int(10 ** (rng.random() * 3.3))}.{digits(rng, 2)}"
    style = rng.random()
    if style < 0.45:
        return value
    if style < 0.75:
        return "$" + (value if rng.random() < 0.7 else value.split(".")[0])
    if style < 0.85:
        return pick(rng, _CURRENCIES) + value
    if style < 0.92:
        return value.replace(".", ",")
    return pick(rng, (value + "/-", value + "*", "-" + value, "(" + value + ")", value + "SR", "@" + value))


def code(rng: np.random.Generator) -> str:
    """Draw a number plate, an article or member number, a flat, a gate."""
    return shaped(rng, pick(rng, _CODES))


def random_string(rng: np.random.Generator) -> str:
    """Draw 1 to 9 characters that mean nothing."""
    alphabets = (UPPER, LOWER, UPPER + DIGITS, UPPER + LOWER + DIGITS, PRINTABLE_ASCII[1:])
    alphabet = pick(rng, alphabets)
    return "".join(pick(rng, alphabet) for _ in range(between(rng, 1, 9)))


def date(rng: np.random.Generator) -> str:
    """Draw a date as receipts and posters write it."""
    day, month, year = between(rng, 1, 31), between(rng, 1, 12), between(rng, 1990, 2030)
    mark = pick(rng, "/-.")
    style = rng.random()
    if style < 0.5:
        return f"{day:02d}{mark}{month:02d}{mark}{year if rng.random() < 0.6 else f'{year % 100:02d}'}"
    if style < 0.65:
        return f"{year}{mark}{month:02d}{mark}{day:02d}"
    name = _MONTHS[month - 1] if rng.random() < 0.5 else _MONTHS[month - 1].upper()
    forms = (f"{day} {name}", f"{name} {day}", f"{day:02d}-{name}-{year % 100:02d}", f"{name} {year}")
    return pick(rng, forms)


def clock_time(rng: np.random.Generator) -> str:
    """Draw a time of day, or opening hours."""
    hour, minute = between(rng, 0, 23), between(rng, 0, 59)
    style = rng.random()
    if style < 0.4:
        return f"{hour:02d}:{minute:02d}" + (f":{between(rng, 0, 59):02d}" if rng.random() < 0.4 else "")
    suffix = pick(rng, ("am", "pm", "AM", "PM", "h", " PM", " am"))
    if style < 0.7:
        return f"{1 + hour % 12}{suffix.strip()}" if style < 0.55 else f"{1 + hour % 12}:{minute:02d}{suffix}"
    opens, closes = pick(rng, ("am", "AM", "")), pick(rng, ("pm", "PM", ""))
    return f"{1 + hour % 12}{opens}-{between(rng, 1, 12)}{closes}"


def telephone(rng: np.random.Generator) -> str:
    """Draw a telephone number or a part of one."""
    return shaped(rng, pick(rng, _TELEPHONES))


def abbreviation(rng: np.random.Generator) -> str:
    """Draw initials, or a kind of street."""
    letters = [pick(rng, UPPER) for _ in range(between(rng, 1, 4))]
    style = rng.random()
    if style < 0.55:
        return "".join(letters)
    if style < 0.75:
        return ".".join(letters) + ("." if rng.random() < 0.6 else "")
    if style < 0.9:
        return "&".join(letters[:2]) + ("" if rng.random() < 0.6 else letters[-1])
    street = pick(rng, _STREETS)
    return street if rng.random() < 0.5 else street.title() + "."
