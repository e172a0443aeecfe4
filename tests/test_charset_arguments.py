from pathlib import Path
from typing import Any

import pytest

from training.arguments import build_arguments, parse_arguments
from training.charset_arguments import refuse_wrong_characters

MINIMAL: dict[str, Any] = {"output_dir": "run", "model": "folder", "train_sources": {"folder:words": 1}}
MINIMAL |= {"max_steps": 1}
CONFIG = Path(__file__).parent.parent / "training/configs/extend_charset.yaml"


def test_the_published_spelling_works_in_the_file_and_on_the_command_line() -> None:
    assert parse_arguments([str(CONFIG)]).charset.charset_add == "€äöüßé"
    assert parse_arguments([str(CONFIG), "charset.add=€äöüßéñ"]).charset.charset_add == "€äöüßéñ"
    assert parse_arguments([str(CONFIG), "charset.add=null"]).charset.charset_add is None
    flat = parse_arguments([str(CONFIG)]).flat()
    assert flat["charset.add"] == "€äöüßé"
    assert build_arguments(flat).flat() == flat


def test_the_published_settings_rehearse_with_a_file_that_is_there() -> None:
    settings = parse_arguments([str(CONFIG)]).charset
    assert settings.rehearsal_share == 0.5
    assert settings.rehearsal_rendering is not None
    assert (CONFIG.parents[2] / settings.rehearsal_rendering).is_file()


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        ("", "at least one character"),
        ("ä<pad>", "the special token <pad>"),
        ("ä</s>ö", "the special token </s>"),
        ("äöä", "every character once, got 'ä' U\\+00E4 several times"),
        ("xa\u0308", "composed form NFC, .*U\\+0308; write 'xä'"),
        ("\u212b", "composed form NFC, .*U\\+212B; write 'Å'"),
        ("\u0331", "the mark '.*' U\\+0331, which stands on other characters"),
        ("ä\tö", "'\\\\t' U\\+0009, white space or a control"),
        ("\u00a0", "U\\+00A0, white space"),
        ("\u200d", "U\\+200D, white space or a control"),
        ("\ue000", "U\\+E000, white space or a control"),
    ],
)
def test_what_cannot_be_added_is_refused(characters: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_wrong_characters(characters)
    with pytest.raises(ValueError, match=message):
        build_arguments({**MINIMAL, "charset.add": characters})


@pytest.mark.parametrize("characters", ["€äöüßé", " ", "ж漢", "#%"])
def test_anything_else_may_be_added(characters: str) -> None:
    assert build_arguments({**MINIMAL, "charset.add": characters}).charset.charset_add == characters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charset.add": 5}, r"`charset\.add`: .*str"),
        ({"rehearsal_share": 1}, "must lie in 0 to below 1, got 1; .*rendered"),
        ({"rehearsal_share": 0.5}, "needs `rehearsal_rendering`"),
        ({"charset_add": "ä"}, r"did you mean 'charset\.add'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_arguments({**MINIMAL, **changes})
