from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from training.setting_names import parse_value, read_override, refuse_unknown_settings, spelling


@dataclass
class Settings:
    plain: int = 0
    charset_add: str | None = field(default=None, metadata={"spelling": "charset.add", "literal": True})


PLAIN, LITERAL = fields(Settings)


def test_a_setting_may_be_spelt_otherwise_than_its_field() -> None:
    assert [spelling(field) for field in fields(Settings)] == ["plain", "charset.add"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("€äö", "€äö"), ("#°", "#°"), ("123", "123"), ("%", "%"), ("'\" €'", '" €'), ("null", None), ("", None)],
)
def test_characters_are_taken_as_they_are(text: str, value: Any) -> None:
    assert read_override(LITERAL, "charset.add", text) == value


def test_other_values_are_read_as_yaml() -> None:
    assert read_override(PLAIN, "plain", "{a: [1, true]}") == {"a": [1, True]}
    assert read_override(None, "unknown", "0.5") == 0.5
    with pytest.raises(ValueError, match="'plain' is not valid YAML: '%'; quote it"):
        parse_value("plain", "%")


def test_an_unknown_setting_is_told_its_nearest_known_one() -> None:
    with pytest.raises(ValueError, match=r"'charset_add' \(did you mean 'charset\.add'\?\)"):
        refuse_unknown_settings({"charset_add": "ä", "plain": 1}, ["plain", "charset.add"])
