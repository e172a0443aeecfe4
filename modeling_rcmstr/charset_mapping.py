"""From one vocabulary to another: which row of a head goes where, and how a new character's row begins.

Rows move by their character, never by their place. A new character begins as the mean of the characters that
it looks like (ä as a, ½ as 1, / and 2), or of all characters where none is alike (the mean row is the usual
choice for a new token: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021), with
a bias lowered by log(new characters / SHARE_OF_NEW). A mean of scores is at most the highest of them, so a
new character stands below an old one in every frame, and the probability of an old one falls by a factor of
at most 1 + SHARE_OF_NEW: right after the change every word is read as before. Training only has to tell ä
from a, with features that know an a already.
"""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE_OF_NEW = 0.01
# What Unicode does not decompose, by its looks, which are what a recogniser sees.
_ALIKE = {
    **{"ß": "B", "ẞ": "B", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ı": "i", "ħ": "h"},
    **{"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "p", "Þ": "P", "ð": "d", "Ð": "D", "ŋ": "n"},
    **{"€": "CE", "£": "EL", "¥": "Y", "¢": "c", "§": "S", "©": "C", "®": "R", "°": "o", "µ": "u", "×": "x"},
    **{"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "‚": ",", "–": "-", "—": "-", "·": ".", "•": "."},
    **{"«": "<", "»": ">", "‹": "<", "›": ">", "¿": "?", "¡": "!"},
    **dict(zip("АВЕКМНОРСТХаеорсухІіЈјЅѕ", "ABEKMHOPCTXaeopcyxIiJjSs", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυχ", "ABEZHIKMNOPTYXaikvopux", strict=True)),
}


@dataclass(frozen=True)
class CharsetChange:
    """What became of the characters of a recogniser.

    Args:
        kept: characters of both vocabularies, in their new order.
        added: new characters, in their order.
        dropped: characters that the new vocabulary lacks.
    """

    kept: str
    added: str
    dropped: str


@dataclass(frozen=True)
class VocabularyMapping:
    """Where the rows of a new vocabulary come from.

    Args:
        sources: for every new id the old ids whose mean it begins as; one for a token that was there.
        is_new: for every new id whether its token is new.
        change: the characters.
    """

    sources: tuple[tuple[int, ...], ...]
    is_new: tuple[bool, ...]
    change: CharsetChange

    def rows(self, old: Tensor) -> Tensor:
        """Make the (V', …) rows of the new vocabulary from the (V, …) old ones; kept rows bit for bit."""
        new = old[torch.tensor([ids[0] for ids in self.sources], device=old.device)]
        for index, ids in enumerate(self.sources):
            if len(ids) > 1:
                new[index] = old[list(ids)].float().mean(0).to(old.dtype)
        return new

    def biases(self, old: Tensor) -> Tensor:
        """Make the (V',) biases, those of new tokens lowered so that none is read before it is learned."""
        new = self.rows(old)
        is_new = torch.tensor(self.is_new, device=old.device)
        return torch.where(is_new, new - math.log(max(1, sum(self.is_new)) / SHARE_OF_NEW), new)


def map_vocabulary(old: Mapping[str, int], new: Mapping[str, int]) -> VocabularyMapping:
    """Find the rows of a new vocabulary in those of an old one, by token.

    Args:
        old: token → id of the recogniser as it is; characters are tokens of length 1.
        new: token → id of the recogniser as it shall be.
    """
    characters = [index for token, index in old.items() if len(token) == 1]
    sources, is_new = [], []
    for token in sorted(new, key=lambda token: new[token]):
        known = token in old
        ids = (old[token],) if known else tuple(old[c] for c in look_alikes(token, old)) or tuple(characters)
        sources.append(ids)
        is_new.append(not known)
    return VocabularyMapping(
        tuple(sources),
        tuple(is_new),
        CharsetChange(
            kept="".join(token for token in new if len(token) == 1 and token in old),
            added="".join(token for token in new if len(token) == 1 and token not in old),
            dropped="".join(token for token in old if len(token) == 1 and token not in new),
        ),
    )


def look_alikes(character: str, known: Mapping[str, int]) -> str:
    """Characters of `known` that a new one looks like: its letter without marks, its parts, or none.

    A letter that `known` has in the other case only is taken in that case.
    """
    if len(character) != 1:
        return ""
    pieces = _ALIKE.get(character) or unicodedata.normalize("NFKD", character)
    found = []
    for piece in pieces:
        if unicodedata.combining(piece):
            continue
        for candidate in (piece, *_ALIKE.get(piece, ""), piece.swapcase()):
            if candidate in known and candidate != character:
                found.append(candidate)
                break
    return "".join(dict.fromkeys(found))
