import math

import pytest
import torch

from modeling_rcmstr.charset_mapping import SHARE_OF_NEW, look_alikes, map_vocabulary

OLD = {token: index for index, token in enumerate(["<pad>", *"abcosBC12/"])}


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("ä", "a"),
        ("ß", "B"),
        ("€", "C"),
        ("½", "12/"),
        ("Ö", "o"),  # no capital O is known
        ("ǻ", "a"),  # two marks
        ("ø", "o"),
        ("С", "C"),  # Cyrillic
        ("ж", ""),
        ("<unk>", ""),
    ],
)
def test_a_character_begins_as_what_it_looks_like(character: str, expected: str) -> None:
    # The slash of ½ is U+2044, which a list of looks does not have.
    assert look_alikes(character, OLD) == expected.replace("/", "")


def test_rows_follow_their_character_and_new_ones_are_means() -> None:
    new = {token: index for index, token in enumerate(["<pad>", *"2Bäжa½"])}
    mapping = map_vocabulary(OLD, new)
    rows = torch.randn(len(OLD), 3)
    made = mapping.rows(rows)
    for token in ("<pad>", "2", "B", "a"):
        assert torch.equal(made[new[token]], rows[OLD[token]])
    assert torch.equal(made[new["ä"]], rows[OLD["a"]])
    torch.testing.assert_close(made[new["½"]], rows[[OLD["1"], OLD["2"]]].mean(0))
    torch.testing.assert_close(made[new["ж"]], rows[1:].mean(0))  # all characters, not <pad>
    assert (mapping.change.kept, mapping.change.added, mapping.change.dropped) == ("2Ba", "äж½", "bcosC1/")


def test_new_biases_are_lowered_by_the_stated_number_and_old_ones_stay() -> None:
    new = {**OLD, "ä": len(OLD), "é": len(OLD) + 1}
    biases = torch.randn(len(OLD))
    made = map_vocabulary(OLD, new).biases(biases)
    assert torch.equal(made[: len(OLD)], biases)
    lowered = math.log(2 / SHARE_OF_NEW)
    torch.testing.assert_close(made[len(OLD)], biases[OLD["a"]] - lowered)
    torch.testing.assert_close(made[len(OLD) + 1], biases[1:].mean() - lowered)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_no_new_character_is_read_and_old_probabilities_hardly_fall(scale: float) -> None:
    """The bound holds for any weights and any features."""
    new = {**OLD, **{character: len(OLD) + place for place, character in enumerate("äàâßжé")}}
    mapping = map_vocabulary(OLD, new)
    weights, biases = torch.randn(len(OLD), 5) * scale, torch.randn(len(OLD)) * scale
    features = torch.randn(500, 5)
    before = features @ weights.T + biases
    after = features @ mapping.rows(weights).T + mapping.biases(biases)
    assert torch.equal(before.argmax(1), after.argmax(1))
    lost = before.softmax(1) / after.softmax(1)[:, : len(OLD)].clamp_min(1e-30)
    likely = before.softmax(1) > 1e-6
    assert float(lost[likely].max()) <= (1 + SHARE_OF_NEW) * 1.0001


def test_half_precision_stays_half_precision() -> None:
    mapping = map_vocabulary(OLD, {**OLD, "½": len(OLD)})
    rows = torch.randn(len(OLD), 3, dtype=torch.bfloat16)
    assert mapping.rows(rows).dtype == mapping.biases(rows[:, 0]).dtype == torch.bfloat16
    assert torch.equal(mapping.rows(rows)[:-1], rows)
