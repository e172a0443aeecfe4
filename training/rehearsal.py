"""Rehearsal: rendered words with every character of a charset, so that a recogniser keeps what it could read.

A recogniser that is trained on a few words with new characters forgets the characters that those words lack.
So a share of its training words is rendered with the whole charset, old and new, and `TextConfig.emphasis` of
them hold a character that running text has rarely: the new ones, and old ones beyond ASCII. What is counted
here says which characters the own words hold, and warns of those that nothing rehearses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from training.arguments import read_settings
from training.charset_arguments import CharsetArguments
from training.word_fonts import PRINTABLE_ASCII, load_fonts
from training.word_sources import RenderedSource

REHEARSAL_NAME = "rehearsal"
# Of an old character with fewer words than this, and no rehearsal, a warning speaks.
FEW_WORDS = 20


def open_rehearsal(settings: CharsetArguments, tokenizer: Any, added: str) -> RenderedSource | None:
    """Open the words to rehearse with, or give None for a share of 0.

    Args:
        settings: of the run.
        tokenizer: of the whole charset.
        added: its new characters.

    Raises:
        ValueError: for a file that cannot be read, settings that do not fit, and characters that no font has.
    """
    if not settings.rehearsal_share:
        return None
    assert settings.rehearsal_rendering is not None
    rendering = read_settings(settings.rehearsal_rendering)
    texts = dict(rendering.get("texts") or {})
    written = writable_charset(tokenizer, rendering.get("fonts"))
    if set(texts.setdefault("charset", written)) != set(written):
        raise ValueError(
            f"{settings.rehearsal_rendering}: rehearsal writes the recogniser's own charset; leave "
            f"`texts.charset` out, got {texts['charset']!r}."
        )
    rare = "".join(c for c in written if c in added or c not in PRINTABLE_ASCII)
    if rare:
        texts.setdefault("emphasised", rare)
    elif "emphasised" not in texts:
        texts["emphasis"] = 0.0
    return RenderedSource(REHEARSAL_NAME, {**rendering, "texts": texts})


def writable_charset(tokenizer: Any, fonts: str | Sequence[str] | None) -> str:
    """The charset of a tokenizer, with the capitals that it reads as small letters, where a font has them."""
    charset = str(tokenizer.charset)
    if not tokenizer.do_lower_case:
        return charset
    capitals = dict.fromkeys(c.upper() for c in charset if len(c.upper()) == 1 and c.upper() not in charset)
    further = "".join(c for c in (*charset, *capitals) if c not in PRINTABLE_ASCII)
    drawn = set(PRINTABLE_ASCII)
    if further:
        folders = [fonts] if isinstance(fonts, str) else fonts
        drawn.update(*(face.characters for face in load_fonts(folders, further_characters=further)))
    return charset + "".join(c for c in capitals if c in drawn)


def rehearsal_weight(settings: CharsetArguments, weights: Iterable[float]) -> float:
    """The weight that gives rehearsal its share beside sources of these weights."""
    return sum(weights) * settings.rehearsal_share / (1 - settings.rehearsal_share)


def count_words_by_character(texts: Iterable[str], tokenizer: Any) -> Counter[str]:
    """In how many of the texts each character stands, as the tokenizer normalises them."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(tokenizer.normalize(text)))
    return counts


def character_record(
    settings: CharsetArguments, tokenizer: Any, added: str, counts: Counter[str], rendered: bool
) -> dict[str, Any]:
    """What the training record says of the charset, and what a person should be warned of.

    Args:
        settings: of the run.
        tokenizer: of the whole charset.
        added: its new characters.
        counts: words of files to train on that hold each character.
        rendered: whether a source of rendered words, or one without end, is among the run's own; what those
            hold is not counted.

    Raises:
        ValueError: for a new character that no training word holds.
    """
    asked = settings.charset_add or ""
    warnings = []
    uncounted = rendered or settings.rehearsal_share > 0
    never = "".join(character for character in added if not counts[character])
    if never and not uncounted:
        raise ValueError(
            f"no training word holds {', '.join(map(repr, never))} of `charset.add`, so it cannot be "
            "learned; leave it out, add words that hold it, or render some by `rehearsal_share`."
        )
    if never:
        warnings.append(f"no word of a file holds {never!r}: it is learned from rendered words alone")
    if added and not uncounted:
        rare = "".join(c for c in tokenizer.charset if c not in added and counts[c] < FEW_WORDS)
        if rare:
            warnings.append(
                f"no rehearsal, and fewer than {FEW_WORDS} training words hold each of the {len(rare)} old "
                f"characters {rare!r}: they will be forgotten; set `rehearsal_share`"
            )
    return {
        "added": added,
        "present_already": "".join(character for character in asked if character not in added),
        "words_with_new_character": {character: counts[character] for character in added},
        "rehearsal_share": settings.rehearsal_share,
        "warnings": warnings,
    }
