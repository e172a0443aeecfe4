"""CharacterTokenizer: ids of characters, what happens outside the charset, saving, CTC collapse."""

import json
import random
import string
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import modeling_rcmstr  # noqa: F401 (registers the Auto classes)
from modeling_rcmstr.tokenization_text_recognition import (
    NAMED_CHARSETS,
    UNKNOWN_CHARACTER_POLICIES,
    CharacterTokenizer,
    charset_characters,
)


@pytest.mark.parametrize(
    ("name", "size"), [("alphanumeric-36", 36), ("alphanumeric-62", 62), ("ascii-94", 94), ("ascii-95", 95)]
)
def test_named_charsets_have_their_size_and_printable_ascii(name: str, size: int) -> None:
    characters = charset_characters(name)
    assert len(set(characters)) == len(characters) == size
    assert set(characters) <= {chr(code) for code in range(32, 127)}


def test_ascii_95_is_every_printable_ascii_character() -> None:
    assert set(NAMED_CHARSETS["ascii-95"]) == {chr(code) for code in range(32, 127)}
    assert set(NAMED_CHARSETS["ascii-94"]) == set(NAMED_CHARSETS["ascii-95"]) - {" "}


def test_ids_are_padding_then_specials_then_the_charset_in_order() -> None:
    assert CharacterTokenizer(charset="ba").get_vocab() == {"<pad>": 0, "b": 1, "a": 2}
    attention = CharacterTokenizer(charset="ba", for_attention=True)
    assert attention.get_vocab() == {"<pad>": 0, "<s>": 1, "</s>": 2, "b": 3, "a": 4}
    replacing = CharacterTokenizer(charset="ba", for_attention=True, unknown_characters="replace")
    assert replacing.get_vocab() == {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "b": 4, "a": 5}
    assert (attention.pad_token_id, attention.bos_token_id, attention.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("policy", UNKNOWN_CHARACTER_POLICIES)
@pytest.mark.parametrize("for_attention", [False, True])
@pytest.mark.parametrize("charset", [*NAMED_CHARSETS, "äöüß€ "])
def test_length_is_vocab_size_so_no_id_lies_outside_the_head(
    charset: str, for_attention: bool, policy: str
) -> None:
    tokenizer = CharacterTokenizer(charset=charset, for_attention=for_attention, unknown_characters=policy)
    assert len(tokenizer) == tokenizer.vocab_size == max(tokenizer.get_vocab().values()) + 1
    text = "aé\t\U0001f600Z <pad></s>" if policy != "error" else charset_characters(charset)
    assert all(0 <= index < tokenizer.vocab_size for index in tokenizer(text)["input_ids"])


@pytest.mark.parametrize("for_attention", [False, True])
def test_decoding_inverts_encoding_with_spaces_where_they_were(for_attention: bool) -> None:
    tokenizer = CharacterTokenizer(charset="ascii-95", for_attention=for_attention)
    for text in (
        "hello",
        "  two  spaces ",
        "a  b",
        " ",
        "",
        "don't (stop)!",
        "<s></s><pad>",
        string.printable[:95],
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_text_that_looks_like_a_special_token_is_characters() -> None:
    tokenizer = CharacterTokenizer(charset="ascii-94", for_attention=True)
    assert tokenizer.text_to_ids("<s>") == [tokenizer.get_vocab()[character] for character in "<s>"] + [2]


def test_the_short_way_to_labels_agrees_with_the_librarys() -> None:
    for tokenizer in (
        CharacterTokenizer(charset="ascii-95"),
        CharacterTokenizer(charset="ascii-95", for_attention=True),
    ):
        for text in ("", "x", "many words"):
            assert tokenizer.text_to_ids(text) == tokenizer(text)["input_ids"] == tokenizer.encode(text)


def test_a_batch_is_padded_with_zero_on_the_right() -> None:
    batch = CharacterTokenizer(charset="ab")(["ab", "a"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[1, 2], [1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_lower_case_is_made_for_36_characters_only() -> None:
    assert CharacterTokenizer().text_to_ids("AbC") == CharacterTokenizer().text_to_ids("abc")
    assert CharacterTokenizer(charset="alphanumeric-62").text_to_ids("A") != CharacterTokenizer(
        charset="alphanumeric-62"
    ).text_to_ids("a")
    assert CharacterTokenizer(charset="xyz", do_lower_case=True).text_to_ids("X") == [1]


def test_composed_and_decomposed_text_are_the_same_label() -> None:
    tokenizer = CharacterTokenizer(charset="aé")
    assert tokenizer.text_to_ids("e\u0301") == tokenizer.text_to_ids("\u00e9") == [2]
    assert CharacterTokenizer(charset="fi", normalization="NFKC").text_to_ids("ﬁ") == [1, 2]
    with pytest.raises(ValueError, match="U\\+FB01"):
        CharacterTokenizer(charset="fi").text_to_ids("ﬁ")


def test_characters_outside_are_an_error_that_lists_them() -> None:
    with pytest.raises(
        ValueError, match=r"'a-é' has characters outside .*'-' \(U\+002D\), 'é' \(U\+00E9\).*'drop'"
    ):
        CharacterTokenizer().text_to_ids("a-é")


def test_characters_outside_are_dropped_or_replaced_on_request() -> None:
    assert CharacterTokenizer(charset="ab", unknown_characters="drop").text_to_ids("a?b!") == [1, 2]
    replacing = CharacterTokenizer(charset="ab", unknown_characters="replace")
    assert replacing.text_to_ids("a?b") == [2, 1, 3]
    assert replacing.decode([2, 1, 3]) == "a�b"
    assert replacing.decode([2, 1, 3], skip_special_tokens=True) == "a�b"


def test_grouping_is_the_ctc_collapse() -> None:
    tokenizer = CharacterTokenizer(charset="abc")
    assert tokenizer.decode([0, 1, 1, 0, 1, 2, 2, 0], group_tokens=True) == "aab"
    assert tokenizer.decode([0, 0], group_tokens=True) == ""
    assert tokenizer.decode([1, 1]) == "aa"
    generator = random.Random(0)
    for _ in range(50):
        ids = generator.choices(range(4), k=20)
        expected = "".join(" abc"[index] for index, _ in groupby(ids) if index)
        assert tokenizer.decode(ids, group_tokens=True) == expected


def test_the_padding_of_labels_is_left_out() -> None:
    tokenizer = CharacterTokenizer(charset="abc")
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    assert tokenizer.batch_decode(labels) == ["ab", "c"]
    assert tokenizer.decode(labels[0]) == "ab"
    assert tokenizer.batch_decode(labels.numpy()) == ["ab", "c"]
    assert tokenizer.decode(np.array([1, -1])) == "a"


def test_decoding_stops_at_the_end_token() -> None:
    tokenizer = CharacterTokenizer(charset="ab", for_attention=True)
    assert tokenizer.decode([1, 3, 2, 4, 4, 0], skip_special_tokens=True) == "a"
    assert tokenizer.decode([1, 3, 2, 0]) == "<s>a</s><pad>"


def test_ids_outside_the_vocabulary_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"ids must lie in 0\.\.2, got 7"):
        CharacterTokenizer(charset="ab").decode([7])


@pytest.mark.parametrize("policy", UNKNOWN_CHARACTER_POLICIES)
@pytest.mark.parametrize("for_attention", [False, True])
def test_a_saved_tokenizer_comes_back_equal(tmp_path: Path, for_attention: bool, policy: str) -> None:
    tokenizer = CharacterTokenizer(
        charset="zaB €<s>/"[:8],
        for_attention=for_attention,
        unknown_characters=policy,
        do_lower_case=False,
        normalization="NFKC",
    )
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), CharacterTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is CharacterTokenizer
        assert list(loaded.get_vocab().items()) == list(tokenizer.get_vocab().items())
        for name in (
            "charset",
            "for_attention",
            "unknown_characters",
            "do_lower_case",
            "normalization",
            "vocab_size",
        ):
            assert getattr(loaded, name) == getattr(tokenizer, name), name
        assert loaded.text_to_ids("za €") == tokenizer.text_to_ids("za €")
        assert len(loaded) == len(tokenizer)


def test_lower_casing_and_policy_survive_and_can_be_changed_on_loading(tmp_path: Path) -> None:
    CharacterTokenizer(charset="abc", do_lower_case=True).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).text_to_ids("ABC") == [1, 2, 3]
    dropping = AutoTokenizer.from_pretrained(tmp_path, unknown_characters="drop")
    assert dropping.text_to_ids("a!b") == [1, 2]
    with pytest.raises(ValueError, match="needs `<unk>` in the vocabulary"):
        AutoTokenizer.from_pretrained(tmp_path, unknown_characters="replace")


def test_arguments_may_repeat_the_vocabulary_file_but_not_contradict_it(tmp_path: Path) -> None:
    CharacterTokenizer(charset="ascii-94").save_pretrained(tmp_path)
    assert (
        CharacterTokenizer.from_pretrained(tmp_path, charset="ascii-94", for_attention=False).vocab_size == 95
    )
    with pytest.raises(ValueError, match="leave `charset` out"):
        CharacterTokenizer.from_pretrained(tmp_path, charset="ascii-95")
    with pytest.raises(ValueError, match="leave `for_attention` out"):
        CharacterTokenizer.from_pretrained(tmp_path, for_attention=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"<pad>": 0, "a": 2}, "without gaps"),
        ({"<pad>": 0, "a": 0}, "without gaps"),
        ({"<pad>": 0, "a": True}, "without gaps"),
        (["<pad>", "a"], "without gaps"),
        ({"a": 0, "<pad>": 1}, "must begin with <pad>"),
        ({"<pad>": 0, "ab": 1}, "its longer tokens are"),
        ({"<pad>": 0, "</s>": 1, "a": 2}, "must begin with <pad>"),
    ],
)
def test_a_damaged_vocabulary_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(path)


@pytest.mark.parametrize(
    ("charset", "message"),
    [
        ("", "at least one character"),
        ([], "at least one character"),
        ("abca", "'a' several times"),
        ("ascii-96", "named charsets: alphanumeric-36"),
        (["a", "bc"], "one Unicode code point, got 'bc'"),
        (["a", ""], "one Unicode code point, got ''"),
        ("xe\u0301", "combine into one of 'xé'"),
        (["a", 3], "one Unicode code point, got 3"),
    ],
)
def test_an_unusable_charset_is_refused(charset: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(charset=charset)


def test_a_character_that_no_text_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="no text can hold 'A', 'B'"):
        CharacterTokenizer(charset="abAB", do_lower_case=True)
    with pytest.raises(ValueError, match="no text can hold 'ﬁ'"):
        CharacterTokenizer(charset="aﬁ", normalization="NFKC")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unknown_characters": "ignore"}, "error, drop, replace"),
        ({"normalization": "nfc"}, "must be NFC, NFKC or None"),
        ({"bos_token": "<s>"}, "`bos_token` must be None"),
        ({"pad_token": "[PAD]"}, "`pad_token` must be <pad>"),
        ({"mask_token": "[MASK]"}, "`mask_token` must be None"),
    ],
)
def test_unusable_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CharacterTokenizer(**arguments)


def test_a_text_must_be_text() -> None:
    with pytest.raises(TypeError, match="got int"):
        CharacterTokenizer().text_to_ids(3)  # type: ignore[arg-type]


def test_allowed_characters_become_their_ids() -> None:
    tokenizer = CharacterTokenizer(charset="alphanumeric-36")
    assert tokenizer.character_ids("0123456789") == list(range(1, 11))
    assert tokenizer.character_ids("Aa9") == tokenizer.character_ids("a9")
    with pytest.raises(ValueError, match="'-' outside"):
        tokenizer.character_ids("0-9")
    with pytest.raises(ValueError, match="must be some of"):
        tokenizer.character_ids("")


def test_extending_keeps_the_present_ids(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer(charset="alphanumeric-62", for_attention=True, unknown_characters="drop")
    extended = tokenizer.extended("äöü")
    assert list(extended.get_vocab().items())[: tokenizer.vocab_size] == list(tokenizer.get_vocab().items())
    assert extended.vocab_size == tokenizer.vocab_size + 3
    assert extended.unknown_characters == "drop"
    extended.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).text_to_ids("ü") == [tokenizer.vocab_size + 2, 2]
    with pytest.raises(ValueError, match="'a' several times"):
        tokenizer.extended("a")


def test_extending_can_change_options_but_not_shift_ids() -> None:
    small = CharacterTokenizer()
    with pytest.raises(ValueError, match="no text can hold"):
        small.extended("ABC")
    assert small.extended("ABC", do_lower_case=False).text_to_ids("aA") == [11, 37]
    with pytest.raises(ValueError, match="would shift"):
        small.extended("-", unknown_characters="replace")
    replacing = CharacterTokenizer(charset="ab", unknown_characters="replace")
    assert replacing.extended("c", unknown_characters="error").get_vocab() == {
        "<pad>": 0,
        "<unk>": 1,
        "a": 2,
        "b": 3,
        "c": 4,
    }


def test_a_charset_may_have_thousands_of_characters() -> None:
    tokenizer = CharacterTokenizer(charset=[chr(code) for code in range(0x4E00, 0x4E00 + 6000)])
    assert tokenizer.text_to_ids(chr(0x4E00 + 5999)) == [6000]
