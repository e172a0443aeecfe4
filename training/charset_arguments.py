"""The settings that extend a recogniser's charset: which characters, and what keeps the old ones alive."""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from huggingface_hub.dataclasses import strict

_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")


@strict
@dataclass
class CharsetArguments:
    """How a charset grows.

    Args:
        charset_add: `charset.add`: characters that the checkpoint's recogniser shall read as well, for
            example "€äöüßé"; those that it has already are said and passed over. None for none.
        rehearsal_share: share of all training words that are rendered for rehearsal, with every character of
            the charset, old and new; the rest comes from `train_sources`. 0 trains on those alone, and old
            characters that they lack are forgotten.
        rehearsal_rendering: a YAML file of the renderer's settings for rehearsal (`emphasis` of its `texts`
            is the share of rendered words that hold a new character); its charset is the recogniser's.
    """

    charset_add: str | None = field(default=None, metadata={"spelling": "charset.add", "literal": True})
    rehearsal_share: float | int = 0.0
    rehearsal_rendering: str | None = None

    def validate_rehearsal(self) -> None:
        """The share leaves room for the words that are to be learned, and has its settings."""
        if not 0 <= self.rehearsal_share < 1:
            raise ValueError(
                f"`rehearsal_share` must lie in 0 to below 1, got {self.rehearsal_share}; to train on "
                "rendered words alone, make `rendered:…` a source."
            )
        if self.rehearsal_share and self.rehearsal_rendering is None:
            raise ValueError(
                "`rehearsal_share` needs `rehearsal_rendering`, a YAML file of the renderer's settings, for "
                "example training/configs/extend_charset_rendering.yaml; or set rehearsal_share=0."
            )

    def validate_characters(self) -> None:
        """Every character to add can stand in a charset."""
        if self.charset_add is not None:
            refuse_wrong_characters(self.charset_add)


def refuse_wrong_characters(characters: str) -> None:
    """Refuse what cannot be added to a charset, in the words of the setting `charset.add`.

    Raises:
        ValueError: for no character, special tokens, repeats, characters that are not in NFC (a letter and
            its mark in two code points among them), marks alone, and white space other than the space.
    """
    if not characters:
        raise ValueError("`charset.add` must hold at least one character, for example charset.add=€äöü.")
    for token in _SPECIAL_TOKENS:
        if token in characters:
            raise ValueError(
                f"`charset.add` lists single characters, got the special token {token} in {characters!r}; "
                "the tokenizer has its special tokens already, leave it out."
            )
    composed = unicodedata.normalize("NFC", characters)
    if composed != characters:
        raise ValueError(
            f"`charset.add` must be in Unicode's composed form NFC, one code point a character, got "
            f"{_listed(characters)}; write {composed!r} ({_listed(composed)})."
        )
    for character in characters:
        category = unicodedata.category(character)
        if category.startswith("M"):
            raise ValueError(
                f"`charset.add` has the mark {_listed(character)}, which stands on other characters; add the "
                "composed letters that your words hold, for example ä."
            )
        if character != " " and (character.isspace() or category.startswith("C")):
            raise ValueError(
                f"`charset.add` has {_listed(character)}, white space or a control that nobody sees; of "
                "these only the space U+0020 can be added."
            )
    repeated = "".join(c for c, count in Counter(characters).items() if count > 1)
    if repeated:
        raise ValueError(
            f"`charset.add` must list every character once, got {_listed(repeated)} several times in "
            f"{characters!r}; remove the repeats."
        )


def _listed(characters: str) -> str:
    return ", ".join(f"{character!r} U+{ord(character):04X}" for character in characters)
