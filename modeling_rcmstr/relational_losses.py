"""The contrastive terms of RCLSTR (arXiv:2308.00508): relations within levels of a hierarchy, and between.

    within    frame, sub-word and word: each query with its own key
    between   frames with the sub-word, and sub-words with the word, that they belong to

All queries that meet the same keys and bank of negatives are compared at once, so each level costs one
product with its bank. The losses themselves are in `contrastive`; encoding is the model's matter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .configuration_rcmstr import RCMSTRConfig
from .contrastive import contrast, subword_windows


@dataclass
class Comparison:
    """Queries that share the keys and the bank of a level.

    Args:
        name: of the level, or "<fine>_to_<coarse>".
        queries: (M, R, D), R for each key.
        contrastive: whether InfoNCE is wanted.
        consistency: whether the consistency is wanted.
    """

    name: str
    queries: Tensor
    contrastive: bool
    consistency: bool


def relation_terms(
    config: RCMSTRConfig,
    queries: dict[str, dict[str, Tensor]],
    keys: dict[str, Tensor] | None,
    negatives: dict[str, Tensor] | None,
    inter_negatives: dict[str, Tensor] | None,
    choices: dict[str, tuple[str, ...]],
) -> dict[str, Tensor]:
    """Compute every term that has a weight, unweighted: the mean over its queries, in nats.

    Args:
        config: says which terms there are, their temperatures and `kl_reduction`.
        queries: (B, n, D) unit vectors by view ("plain", "rearranged") and level.
        keys: (B, n, D) unit vectors by level.
        negatives: (K, D) unit vectors by level, or None for the batch's other keys.
        inter_negatives: the same for the terms between levels, or None for `negatives`.
        choices: views whose queries each level contrasts; between levels it is always the plain one.

    Returns:
        Scalars by name: "<level>_contrastive", "<level>_consistency", "<fine>_to_<coarse>_contrastive", ….

    Raises:
        ValueError: when keys or a level are missing, or shapes do not fit.
    """
    if keys is None:
        raise ValueError(
            "contrast needs `second_pixel_values`, or `keys` from the momentum copy's `encode_keys`."
        )
    terms: dict[str, Tensor] = {}
    for level in config.key_levels:
        key = _entry(keys, level, "keys").flatten(0, 1)  # (M, D)
        intra = torch.stack([queries[view][level] for view in choices[level]], dim=2).flatten(
            0, 1
        )  # (M, views, D)
        vectors = {level: intra}
        for fine, coarse in config.inter_pairs:
            if coarse == level:
                vectors[f"{fine}_to_{coarse}"] = _group_by(
                    coarse, queries["plain"][fine], config.num_subwords
                )
        wanted = [
            Comparison(
                name,
                rows,
                f"{name}_contrastive" in config.loss_weights,
                f"{name}_consistency" in config.loss_weights,
            )
            for name, rows in vectors.items()
        ]
        bank = None if negatives is None else _entry(negatives, level, "negatives")
        if inter_negatives is None or len(wanted) == 1:
            terms |= _compare(config, wanted, key, bank)
        else:
            terms |= _compare(config, wanted[:1], key, bank)
            terms |= _compare(config, wanted[1:], key, _entry(inter_negatives, level, "inter_negatives"))
    return terms


def sum_terms(config: RCMSTRConfig, terms: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Give the weighted sum of all terms as "loss" and the plain sum of each kind; None without terms."""
    kinds: dict[str, list[Tensor]] = {
        "loss": [weight * terms[name] for name, weight in config.loss_weights.items()],
        "contrastive_loss": [],
        "consistency_loss": [],
        "inter_hierarchical_loss": [],
        "reconstruction_loss": [],
    }
    for name, term in terms.items():
        kind = "inter_hierarchical" if "_to_" in name else name.rsplit("_")[-1]
        kinds[f"{kind}_loss"].append(term)
    return {name: torch.stack(values).sum() if values else None for name, values in kinds.items()}


def _entry(vectors: dict[str, Tensor], level: str, name: str) -> Tensor:
    if level not in vectors:
        raise ValueError(f"`{name}` lack the level {level!r}, they have: {', '.join(vectors) or 'none'}.")
    return vectors[level]


def _group_by(coarse: str, vectors: Tensor, num_subwords: int) -> Tensor:
    """Gather (B, n, D) finer vectors by the element of the coarse level that they belong to: (M, R, D)."""
    if coarse == "word":
        return vectors
    return subword_windows(vectors, num_subwords).flatten(0, 1)


def _compare(
    config: RCMSTRConfig, comparisons: list[Comparison], key: Tensor, bank: Tensor | None
) -> dict[str, Tensor]:
    """Contrast all queries of a bank at once and give the mean of each wanted part."""
    sizes = [comparison.queries.shape[1] for comparison in comparisons]
    wanted = {
        "contrastive": [comparison.contrastive for comparison in comparisons],
        "consistency": [comparison.consistency for comparison in comparisons],
    }
    output = contrast(
        torch.cat([comparison.queries for comparison in comparisons], dim=1),
        key,
        bank,
        config.contrastive_temperature,
        config.consistency_temperature,
        _span(sizes, wanted["contrastive"]),
        _span(sizes, wanted["consistency"]),
    )
    consistency = output.consistency
    if config.kl_reduction == "mean":
        # The released code averages over queries and negatives alike.
        consistency = consistency / output.num_negatives
    terms = {}
    for part, losses in (("contrastive", output.contrastive), ("consistency", consistency)):
        chosen = [index for index, flag in enumerate(wanted[part]) if flag]
        for index, values in zip(chosen, losses.split([sizes[i] for i in chosen], dim=1), strict=True):
            terms[f"{comparisons[index].name}_{part}"] = values.mean()
    return terms


def _span(sizes: list[int], wanted: list[bool]) -> slice:
    """Give the columns of the wanted blocks (the level's own, all pairs, or both: they are neighbours)."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    chosen = [(end - size, end) for size, end, flag in zip(sizes, ends, wanted, strict=True) if flag]
    return slice(chosen[0][0], chosen[-1][1]) if chosen else slice(0, 0)
