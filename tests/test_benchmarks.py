import pytest

from training.benchmarks import PROTOCOL, fingerprint, normalise_alphanumeric


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's", "its"),
        ("$5.99", "599"),
        ("...", ""),
        ("A B", "ab"),
        ("Caf\u00e9", "caf"),
        ("abc123", "abc123"),
    ],
)
def test_normalisation_keeps_lower_case_letters_and_digits(text: str, expected: str) -> None:
    assert normalise_alphanumeric(text) == expected


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalise_alphanumeric("Mixed-CASE 42!")
    assert normalise_alphanumeric(once) == once


def test_fingerprint_changes_with_every_name_label_and_order() -> None:
    base = fingerprint(["a.png", "b.png"], ["one", "two"])
    assert base == fingerprint(["a.png", "b.png"], ["one", "two"])
    others = [
        fingerprint(["a.png", "c.png"], ["one", "two"]),
        fingerprint(["a.png", "b.png"], ["one", "Two"]),
        fingerprint(["b.png", "a.png"], ["two", "one"]),
        fingerprint(["a.png"], ["one"]),
    ]
    assert len({base, *others}) == 5
    assert len(base) == 16


def test_fingerprint_refuses_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        fingerprint(["a.png"], [])


def test_protocol_says_every_rule_that_the_scores_follow() -> None:
    for word in ("lower-casing", "0-9 a-z", "left out and counted", "1-NED", "CER", "Wilson", "Unreadable"):
        assert word in PROTOCOL
