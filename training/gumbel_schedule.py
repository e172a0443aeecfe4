"""The temperature of a Gumbel softmax over a run: high and soft at first, falling geometrically to a floor.

vq-wav2vec and wav2vec 2.0 multiply by a fixed factor each update (arXiv:2006.11477, §4.2), which fits runs of
400,000 updates and leaves a short run soft to its end. Here the factor follows from the length of the run by
default; giving it restores theirs.
"""

from __future__ import annotations

# wav2vec 2.0's factor per update, from 2 to 0.5 in 277,258 updates.
WAV2VEC2_DECAY = 0.999995


def gumbel_temperature(
    step: int,
    total_steps: int,
    start: float = 2.0,
    floor: float = 0.5,
    floor_at: float = 0.7,
    decay: float | None = None,
) -> float:
    """Temperature of one update.

    Args:
        step: updates done so far, 0 for the first; beyond `total_steps` the floor holds.
        total_steps: updates of the whole run, at least 1.
        start: temperature of the first update.
        floor: lowest temperature.
        floor_at: share of the run at which the floor is reached, above 0 and at most 1.
        decay: factor per update instead of the one that `floor_at` implies, such as `WAV2VEC2_DECAY`.

    Returns:
        max(floor, start · decay^step), with decay = (floor / start)^(1 / (floor_at · total_steps)) by
        default.

    Raises:
        ValueError: for a negative step, an empty run, or numbers that do not describe a fall to a positive
            floor.
    """
    if step < 0 or total_steps < 1:
        raise ValueError(
            f"`step` must be 0 or more and `total_steps` positive, got {step} and {total_steps}."
        )
    if not 0 < floor <= start:
        raise ValueError(
            f"temperatures must fall to a positive floor: 0 < floor <= start, got {floor} and {start}."
        )
    if decay is not None:
        if not 0 < decay <= 1:
            raise ValueError(f"`decay` is a factor per update, above 0 and at most 1, got {decay}.")
        return max(floor, start * decay**step)
    if not 0 < floor_at <= 1:
        raise ValueError(f"`floor_at` is a share of the run, above 0 and at most 1, got {floor_at}.")
    fallen = min(step / (floor_at * total_steps), 1.0)
    return max(floor, start * (floor / start) ** fallen)
