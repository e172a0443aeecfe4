"""How the settings of a run are spelt, and what is said of one that is unknown or wrong."""

from __future__ import annotations

import difflib
from dataclasses import Field
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError


def spelling(field: Field[Any]) -> str:
    """A setting's name in files and on command lines: the field's, unless its metadata has a `spelling`."""
    return str(field.metadata.get("spelling", field.name))


def read_override(field: Field[Any] | None, key: str, text: str) -> Any:
    """Read the value of `key=value`: as YAML; what is `literal` as it is, unless it stands in quotes.

    Characters such as `#`, `%` and `123` would be a comment, an error and a number to YAML.

    Raises:
        ValueError: for what is not valid YAML.
    """
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    if field is not None and field.metadata.get("literal") and not quoted and text not in ("", "null"):
        return text
    return parse_value(key, text)


def parse_value(key: str, text: str) -> Any:
    """Read one value as YAML does; `key` names it in the error."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {key!r} is not valid YAML: {text!r}; quote it.") from error


def refuse_unknown_settings(settings: dict[str, Any], known: list[str]) -> None:
    """Raise a ValueError that lists all unknown keys, each with the nearest known one."""
    complaints = []
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            complaints.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if complaints:
        raise ValueError(
            f"unknown settings: {', '.join(complaints)}. Known settings: {', '.join(sorted(known))}."
        )


def explain_wrong_setting(
    error: StrictDataclassError, values: dict[str, Any], spellings: dict[str, str]
) -> str:
    """Say the rule and the value, and a remedy for numbers that YAML took for text.

    Args:
        error: what the strict dataclass said.
        values: of its fields.
        spellings: field → setting.
    """
    message = str(error.__cause__ or error)
    for name, value in values.items():
        if isinstance(value, str) and f"'{name}'" in str(error) and _is_number(value):
            message += f" YAML reads {value} as text; write it as {float(value):.12f}".rstrip("0") + "."
    prefix = next((f"`{spellings[name]}`: " for name in values if f"field '{name}'" in str(error)), "")
    return prefix + message


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
