"""CharacterTokenizer: one id per character, for CTC and attention recognisers.

Id 0 is `<pad>`, which is also the CTC blank. Attention recognisers add `<s>` and `</s>` (ids 1 and 2), a
tokenizer that replaces unknown characters adds `<unk>`; the characters of the charset follow in their order.
What turns scores into ids is in `text_decoding`.
"""

import json
import os
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

from transformers import PreTrainedTokenizer

NAMED_CHARSETS = {
    "alphanumeric-36": string.digits + string.ascii_lowercase,
    "alphanumeric-62": string.digits + string.ascii_letters,
    "ascii-94": string.digits + string.ascii_letters + string.punctuation,
    "ascii-95": string.digits + string.ascii_letters + string.punctuation + " ",
}
UNKNOWN_CHARACTER_POLICIES = ("error", "drop", "replace")
NORMALIZATIONS = ("NFC", "NFKC")
PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
# What a predicted `<unk>` looks like in text.
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def charset_characters(charset: str | Sequence[str]) -> str:
    """List the characters of a charset, in the order of their ids.

    Args:
        charset: a name of `NAMED_CHARSETS`, or the characters themselves as a string or as a sequence of
            single characters.

    Returns:
        The characters as one string.

    Raises:
        ValueError: for an empty charset, an entry of several code points, or a character that is listed
            twice.
    """
    if isinstance(charset, str):
        charset = NAMED_CHARSETS.get(charset, charset)
        composed = unicodedata.normalize("NFC", charset)
        if len(composed) < len(charset):
            raise ValueError(
                f"every character of `charset` must be one Unicode code point, got {charset!r}, where some "
                f"combine into one of {composed!r}; give the composed string, or a list of characters."
            )
    characters = list(charset)
    if not characters:
        raise ValueError(
            f"`charset` must hold at least one character, got {charset!r}; give the characters, or one of "
            f"the names {', '.join(NAMED_CHARSETS)}."
        )
    for character in characters:
        if not isinstance(character, str) or len(character) != 1:
            raise ValueError(
                f"every entry of `charset` must be one Unicode code point, got {character!r}; split it, or "
                "compose it with unicodedata.normalize('NFC', …)."
            )
    repeated = sorted(character for character, count in Counter(characters).items() if count > 1)
    if repeated:
        raise ValueError(
            f"every character of `charset` must be listed once, got {', '.join(map(repr, repeated))} several "
            f"times in {''.join(characters)!r}; remove the repeats (named charsets: "
            f"{', '.join(NAMED_CHARSETS)})."
        )
    return "".join(characters)


class CharacterTokenizer(PreTrainedTokenizer):
    """Map text to character ids and back, spaces and order kept exactly.

    Text such as "<s>" is three characters, never the special token. `add_tokens` is left as the library has
    it and would give ids that the recogniser's last layer does not have; make a tokenizer of more characters
    with `extended` and resize the head.

    Args:
        vocab_file: a `vocab.json` that maps every token to its id, as `save_vocabulary` writes it; instead of
            `charset`.
        charset: one of `NAMED_CHARSETS` or the characters; "alphanumeric-36" when there is no `vocab_file`
            either.
        for_attention: whether the vocabulary has `<s>` and `</s>` and encoded text ends in `</s>`; None means
            as the `vocab_file` says, and no without one.
        unknown_characters: what happens to characters outside the charset when text is encoded: "error"
            raises, "drop" leaves them out, "replace" puts `<unk>`.
        do_lower_case: lower-case text before encoding it; None means for the charset "alphanumeric-36" only.
        normalization: Unicode form that text is brought to first, "NFC" or "NFKC", or None for as it is.
        kwargs: further arguments of `PreTrainedTokenizer`.

    Raises:
        ValueError: for a charset, a vocabulary or an option that cannot be used; the message gives the rule
            and the remedy.
    """

    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        charset: str | Sequence[str] | None = None,
        for_attention: bool | None = None,
        unknown_characters: str = "error",
        do_lower_case: bool | None = None,
        normalization: Literal["NFC", "NFKC"] | None = "NFC",
        **kwargs: Any,
    ) -> None:
        _check_policy(unknown_characters)
        if normalization is not None and normalization not in NORMALIZATIONS:
            raise ValueError(f"`normalization` must be NFC, NFKC or None, got {normalization!r}.")
        if vocab_file is not None:
            self.encoder = _read_vocabulary(vocab_file)
            self._refuse_other_vocabulary(charset, for_attention)
        else:
            special = [PAD, START, END] if for_attention else [PAD]
            special += [UNKNOWN] if unknown_characters == "replace" else []
            characters = charset_characters("alphanumeric-36" if charset is None else charset)
            self.encoder = {token: index for index, token in enumerate([*special, *characters])}
        if unknown_characters == "replace" and UNKNOWN not in self.encoder:
            raise ValueError(
                "`unknown_characters='replace'` needs `<unk>` in the vocabulary, and it has none; use 'drop' "
                "or 'error', or make the tokenizer anew and train the head again."
            )
        self.decoder = {index: token for token, index in self.encoder.items()}
        if do_lower_case is None:
            do_lower_case = self.charset == NAMED_CHARSETS["alphanumeric-36"]
        self.for_attention = END in self.encoder
        self.unknown_characters = unknown_characters
        self.do_lower_case = do_lower_case
        self.normalization = normalization
        self._refuse_unreachable_characters()
        kwargs.update(
            self._special_tokens(kwargs), special_tokens_pattern="eos" if self.for_attention else "none"
        )
        super().__init__(
            unknown_characters=unknown_characters,
            do_lower_case=do_lower_case,
            normalization=normalization,
            **kwargs,
        )

    @property
    def charset(self) -> str:
        """The characters, in the order of their ids."""
        return "".join(token for token in self.encoder if len(token) == 1)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included: the `vocab_size` of the recogniser."""
        return len(self.encoder)

    def get_vocab(self) -> dict[str, int]:
        """Map every token to its id."""
        return {**self.encoder, **self.added_tokens_encoder}

    def normalize(self, text: str) -> str:
        """Bring text to the form that is looked up: Unicode form and case."""
        if text.isascii():
            return text.lower() if self.do_lower_case else text
        if self.do_lower_case:
            text = text.lower()
        return unicodedata.normalize(self.normalization, text) if self.normalization else text

    def text_to_ids(self, text: str) -> list[int]:
        """Encode one text as a label: its character ids, and `</s>` for an attention recogniser.

        Raises:
            ValueError: for characters outside the charset when `unknown_characters` is "error".
        """
        ids = [self.encoder[character] for character in self._tokenize(text)]
        return [*ids, self.encoder[END]] if self.for_attention else ids

    def character_ids(self, characters: str) -> list[int]:
        """Look up the ids of some characters, for constrained decoding; sorted, each once.

        Raises:
            ValueError: when there is none, or one is outside the charset.
        """
        normalized = self.normalize(characters)
        outside = sorted(set(normalized) - set(self.charset))
        if outside or not normalized:
            raise ValueError(
                f"the allowed characters must be some of {self.charset!r}, got {characters!r}"
                + (f" with {', '.join(map(repr, outside))} outside." if outside else ".")
            )
        return sorted({self.encoder[character] for character in normalized})

    def extended(self, characters: str, **options: Any) -> "CharacterTokenizer":
        """Make a tokenizer of this charset and more characters; the present ids stay what they are.

        Args:
            characters: characters to append, none of them in the charset.
            options: arguments of the class that shall differ, such as `do_lower_case`.

        Returns:
            The new tokenizer; its `vocab_size` says what to resize the head to.

        Raises:
            ValueError: for characters that are there already, or that the options make unreachable.
        """
        policy = options.pop("unknown_characters", self.unknown_characters)
        _check_policy(policy)
        replaces = UNKNOWN in self.encoder
        if policy == "replace" and not replaces:
            raise ValueError(
                "`<unk>` would shift the present ids; use `unknown_characters` 'error' or 'drop'."
            )
        arguments = {
            "charset": list(charset_characters([*self.charset, *characters])),
            "for_attention": self.for_attention,
            "unknown_characters": "replace" if replaces else policy,
            "do_lower_case": self.do_lower_case,
            "normalization": self.normalization,
        }
        tokenizer = CharacterTokenizer(**{**arguments, **options})
        # A vocabulary keeps its `<unk>` under every policy.
        tokenizer.unknown_characters = tokenizer.init_kwargs["unknown_characters"] = policy
        return tokenizer

    def tokenize(self, text: str, *_: Any, **__: Any) -> list[str]:
        """Split text into characters; special tokens are never looked for in text."""
        return self._tokenize(text)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join characters without anything between them."""
        return "".join(REPLACEMENT_CHARACTER if token == UNKNOWN else token for token in tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.json`: every token and its id, in the order of the ids."""
        name = (f"{filename_prefix}-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.encoder, file, ensure_ascii=False, indent=2)
            file.write("\n")
        return (path,)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"a text must be a str, got {type(text).__name__}.")
        characters = self.normalize(text)
        outside = [character for character in characters if character not in self.encoder]
        if not outside:
            return list(characters)
        if self.unknown_characters == "drop":
            return [character for character in characters if character in self.encoder]
        if self.unknown_characters == "replace":
            return [character if character in self.encoder else UNKNOWN for character in characters]
        listed = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in dict.fromkeys(outside))
        raise ValueError(
            f"{text!r} has characters outside the charset {self.charset!r}: {listed}; use a charset that has "
            "them, or make the tokenizer with `unknown_characters='drop'` or 'replace'."
        )

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.encoder.get(token, self.encoder.get(UNKNOWN))

    def _convert_id_to_token(self, index: int) -> str:
        token = self.decoder.get(index)
        if token is None:
            raise ValueError(
                f"ids must lie in 0..{self.vocab_size - 1}, got {index}; decode with the checkpoint's own "
                "tokenizer."
            )
        return token

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,  # noqa: ARG002 (spaces are characters like any other)
        group_tokens: bool = False,
        **_: Any,
    ) -> str:
        """Turn ids into text; negative ids (the -100 of labels) are left out.

        Args:
            token_ids: ids of one text.
            skip_special_tokens: leave out special tokens and what follows the first `</s>`.
            clean_up_tokenization_spaces: has no effect.
            group_tokens: read the ids as the best class of each CTC frame: merge repeats, then drop `<pad>`.
        """
        ids = [token_ids] if isinstance(token_ids, int) else [int(index) for index in token_ids]
        ids = [index for index in ids if index >= 0]
        if group_tokens:
            ids = [index for index, _ in groupby(ids) if index != self.encoder[PAD]]
        if skip_special_tokens and self.for_attention and self.encoder[END] in ids:
            ids = ids[: ids.index(self.encoder[END])]
        tokens = self.convert_ids_to_tokens(ids)
        if skip_special_tokens:
            hidden = {PAD, START, END}
            tokens = [token for token in tokens if token not in hidden]
        return self.convert_tokens_to_string(tokens)

    def _refuse_other_vocabulary(
        self, charset: str | Sequence[str] | None, for_attention: bool | None
    ) -> None:
        """A vocabulary file is the truth; arguments may repeat it."""
        if charset is not None and charset_characters(charset) != self.charset:
            raise ValueError(
                f"the vocabulary file has the charset {self.charset!r}, `charset` says {charset!r}; leave "
                "`charset` out, or add characters with `extended`."
            )
        if for_attention is not None and for_attention != (END in self.encoder):
            raise ValueError(
                f"the vocabulary file {'has' if END in self.encoder else 'lacks'} {START} and {END}, "
                f"`for_attention` says {for_attention}; leave `for_attention` out, or make the tokenizer "
                "anew."
            )

    def _special_tokens(self, given: dict[str, Any]) -> dict[str, str]:
        """Name the special tokens of the vocabulary; another would get an id that no recogniser has."""
        names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "unk_token": UNKNOWN}
        special_tokens = {name: token for name, token in names.items() if token in self.encoder}
        for name in self.SPECIAL_TOKENS_ATTRIBUTES:
            token = given.pop(name, None)
            if token is not None and str(token) != special_tokens.get(name):
                raise ValueError(
                    f"`{name}` must be {special_tokens.get(name)} with this vocabulary, got {str(token)!r}; "
                    f"leave it out. `for_attention=True` adds {START} and {END}, "
                    f"`unknown_characters='replace'` adds {UNKNOWN}."
                )
        return special_tokens

    def _refuse_unreachable_characters(self) -> None:
        """Characters that normalisation changes could be predicted and never learned."""
        changed = [character for character in self.charset if self.normalize(character) != character]
        if changed:
            raise ValueError(
                f"no text can hold {', '.join(map(repr, changed))} of the charset after "
                f"`do_lower_case={self.do_lower_case}` and `normalization={self.normalization!r}`; leave "
                "them out of the charset, or change the options."
            )


def _check_policy(policy: str) -> None:
    if policy not in UNKNOWN_CHARACTER_POLICIES:
        known = ", ".join(UNKNOWN_CHARACTER_POLICIES)
        raise ValueError(f"`unknown_characters` must be one of {known}, got {policy!r}.")


def _read_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read and check a `vocab.json`."""
    with open(path, encoding="utf-8") as file:
        vocabulary = json.load(file)
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if {index for index in ids if type(index) is int} != set(range(len(vocabulary))):
        raise ValueError(
            f"{path} must map every token to its own id, 0, 1, 2 … without gaps; save it with "
            "`save_pretrained`."
        )
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = [token for token in tokens if len(token) != 1]
    known = [[PAD], [PAD, UNKNOWN], [PAD, START, END], [PAD, START, END, UNKNOWN]]
    if special not in known or tokens[: len(special)] != special:
        raise ValueError(
            f"{path} must begin with {PAD}, or {PAD}, {START}, {END}, each with or without {UNKNOWN}, and "
            f"hold single characters otherwise; its longer tokens are {special}."
        )
    return {token: vocabulary[token] for token in tokens}
