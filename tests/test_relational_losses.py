"""The contrastive terms against loops over words, levels and windows; what each weight and switch removes."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.relational_losses import relation_terms, sum_terms

COUNTS = {"frame": 26, "subword": 4, "word": 1}
SIZES = {"frame": 30, "subword": 20, "word": 10}
BOTH = dict.fromkeys(COUNTS, ("plain", "rearranged"))


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def info_nce_twin(query: np.ndarray, key: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    return -float(np.log(softmax(np.array([query @ key, *(negatives @ query)]) / temperature)[0]))


def consistency_twin(query: np.ndarray, key: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    ours, theirs = softmax(negatives @ query / temperature), softmax(negatives @ key / temperature)
    return float(((theirs - ours) * (np.log(theirs) - np.log(ours))).sum()) / 2


def vectors(seed: int, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        level: F.normalize(torch.randn(batch, count, 6, generator=generator, dtype=torch.float64), dim=-1)
        for level, count in COUNTS.items()
    }


def bank(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        level: F.normalize(torch.randn(size, 6, generator=generator, dtype=torch.float64), dim=-1)
        for level, size in SIZES.items()
    }


def terms(config: RCMSTRConfig, **replace: Any) -> dict[str, Tensor]:
    arguments: dict[str, Any] = {
        "queries": {"plain": vectors(1), "rearranged": vectors(2)},
        "keys": vectors(3),
        "negatives": bank(4),
        "inter_negatives": None,
        "choices": BOTH,
    }
    return relation_terms(config, **{**arguments, **replace})


def pairs_of(fine: str, coarse: str) -> list[tuple[int, int]]:
    """(index of the fine element, index of the coarse one it is compared with)."""
    if coarse == "word":
        return [(t, 0) for t in range(COUNTS[fine])]
    return [(t, window) for window in range(4) for t in range(6 * window, 6 * window + 8)]


def test_all_terms_equal_loops_over_their_queries() -> None:
    config = RCMSTRConfig(
        inter_contrastive_weight=1.0,
        inter_hierarchical_pairs=("frame_to_subword", "subword_to_word", "frame_to_word"),
    )
    computed = terms(config)
    plain, rearranged, keys = ({k: v.numpy() for k, v in vectors(s).items()} for s in (1, 2, 3))
    queue = {level: values.numpy() for level, values in bank(4).items()}
    expected: dict[str, float] = {}
    for name, twin, temperature in (
        ("contrastive", info_nce_twin, 0.07),
        ("consistency", consistency_twin, 0.04),
    ):
        for level, count in COUNTS.items():
            values = [
                twin(view[level][b, i], keys[level][b, i], queue[level], temperature)
                for view in (plain, rearranged)
                for b in range(2)
                for i in range(count)
            ]
            expected[f"{level}_{name}"] = float(np.mean(values))
        for fine, coarse in (("frame", "subword"), ("subword", "word"), ("frame", "word")):
            values = [
                twin(plain[fine][b, i], keys[coarse][b, j], queue[coarse], temperature)
                for b in range(2)
                for i, j in pairs_of(fine, coarse)
            ]
            expected[f"{fine}_to_{coarse}_{name}"] = float(np.mean(values))
    assert {name: float(value) for name, value in computed.items()} == pytest.approx(expected, rel=1e-9)
    assert len(pairs_of("frame", "subword")) == 32


def test_published_terms_are_the_default() -> None:
    weights = RCMSTRConfig().loss_weights
    assert weights == {
        **{f"{level}_contrastive": 1.0 for level in COUNTS},
        **{f"{level}_consistency": 0.3 for level in COUNTS},
        "frame_to_subword_consistency": 0.3,
        "subword_to_word_consistency": 0.3,
        "reconstruction": 1.0,
    }
    assert set(terms(RCMSTRConfig())) == set(weights) - {"reconstruction"}


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"contrastive_weights": (0.0, 1.0, 1.0)}, {"frame_contrastive"}),
        ({"consistency_weights": (0.3, 0.0, 0.3)}, {"subword_consistency"}),
        (
            {"inter_consistency_weight": 0.0},
            {"frame_to_subword_consistency", "subword_to_word_consistency"},
        ),
        ({"inter_hierarchical_pairs": ("subword_to_word",)}, {"frame_to_subword_consistency"}),
    ],
)
def test_a_weight_of_zero_removes_exactly_its_term(fields: dict[str, Any], missing: set[str]) -> None:
    whole, part = terms(RCMSTRConfig()), terms(RCMSTRConfig(**fields))
    assert set(whole) - set(part) == missing
    assert set(part) <= set(whole)
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name])


def test_gamma_adds_info_nce_between_levels_and_changes_nothing_else() -> None:
    without, with_gamma = terms(RCMSTRConfig()), terms(RCMSTRConfig(inter_contrastive_weight=1.0))
    assert set(with_gamma) - set(without) == {"frame_to_subword_contrastive", "subword_to_word_contrastive"}
    for name, value in without.items():
        torch.testing.assert_close(with_gamma[name], value)


def test_batchmean_is_the_number_of_negatives_times_mean() -> None:
    formula, code = terms(RCMSTRConfig()), terms(RCMSTRConfig(kl_reduction="mean"))
    for name, value in formula.items():
        coarse = name.removesuffix("_consistency").split("_to_")[-1]
        factor = SIZES[coarse] if name.endswith("_consistency") else 1
        torch.testing.assert_close(code[name] * factor, value)


def test_rearranged_queries_never_enter_the_terms_between_levels() -> None:
    config = RCMSTRConfig(inter_contrastive_weight=1.0)
    first = terms(config)
    second = terms(config, queries={"plain": vectors(1), "rearranged": vectors(9)})
    for name in first:
        same_value = float(first[name]) == pytest.approx(float(second[name]), rel=1e-9)
        assert same_value == ("_to_" in name)


def test_levels_contrast_the_views_that_were_chosen() -> None:
    plain = terms(RCMSTRConfig(), choices=dict.fromkeys(COUNTS, ("plain",)))
    rearranged = terms(RCMSTRConfig(), choices=dict.fromkeys(COUNTS, ("rearranged",)))
    both = terms(RCMSTRConfig())
    for name in both:
        if "_to_" not in name:
            torch.testing.assert_close(both[name], (plain[name] + rearranged[name]) / 2)
    mixed = terms(
        RCMSTRConfig(), choices={"frame": ("plain",), "subword": ("rearranged",), "word": ("plain",)}
    )
    torch.testing.assert_close(mixed["frame_contrastive"], plain["frame_contrastive"])
    torch.testing.assert_close(mixed["subword_contrastive"], rearranged["subword_contrastive"])


def test_another_bank_between_levels_changes_the_terms_between_levels_only() -> None:
    """The released code enqueues before it computes them."""
    config = RCMSTRConfig(inter_contrastive_weight=1.0)
    first, legacy = terms(config), terms(config, inter_negatives=bank(7))
    for name in first:
        same_value = float(first[name]) == pytest.approx(float(legacy[name]), rel=1e-9)
        assert same_value == ("_to_" not in name)
    same = terms(config, inter_negatives=bank(4))
    for name, value in first.items():
        torch.testing.assert_close(same[name], value)


def test_sums_are_weighted_in_the_loss_and_plain_in_each_kind() -> None:
    config = RCMSTRConfig(contrastive_weights=(1.0, 2.0, 3.0), reconstruction_weight=5.0)
    values = {name: torch.tensor(float(i + 1)) for i, name in enumerate(config.loss_weights)}
    sums = sum_terms(config, values)
    assert float(sums["loss"]) == pytest.approx(  # type: ignore[arg-type]
        sum(weight * float(values[name]) for name, weight in config.loss_weights.items())
    )
    for kind, names in {
        "contrastive_loss": [f"{level}_contrastive" for level in COUNTS],
        "consistency_loss": [f"{level}_consistency" for level in COUNTS],
        "inter_hierarchical_loss": ["frame_to_subword_consistency", "subword_to_word_consistency"],
        "reconstruction_loss": ["reconstruction"],
    }.items():
        assert float(sums[kind]) == sum(float(values[name]) for name in names)  # type: ignore[arg-type]
    only = RCMSTRConfig.preset("seqmoco_without_kl")
    sums = sum_terms(only, {"subword_contrastive": torch.tensor(2.0)})
    assert float(sums["loss"]) == 2.0  # type: ignore[arg-type]
    assert sums["consistency_loss"] is sums["inter_hierarchical_loss"] is sums["reconstruction_loss"] is None


def test_missing_keys_and_levels_are_named() -> None:
    with pytest.raises(ValueError, match="contrast needs `second_pixel_values`, or `keys`"):
        terms(RCMSTRConfig(), keys=None)
    with pytest.raises(ValueError, match="`keys` lack the level 'word', they have: frame, subword"):
        terms(RCMSTRConfig(), keys={k: v for k, v in vectors(3).items() if k != "word"})
    with pytest.raises(ValueError, match="`negatives` lack the level 'frame', they have: none"):
        terms(RCMSTRConfig(), negatives={})
