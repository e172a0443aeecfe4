"""The Gumbel temperature over a run, in closed form."""

import pytest

from training.gumbel_schedule import WAV2VEC2_DECAY, gumbel_temperature


@pytest.mark.parametrize("total", [10, 1000, 48_828])
def test_falls_from_two_to_a_half_at_seventy_percent(total: int) -> None:
    values = [gumbel_temperature(step, total) for step in range(0, total + 1, max(1, total // 500))]
    assert values[0] == 2.0
    assert all(later <= earlier for earlier, later in zip(values, values[1:], strict=False))
    assert min(values) == 0.5
    assert gumbel_temperature(round(0.7 * total), total) == pytest.approx(0.5, rel=1e-12)
    assert gumbel_temperature(round(0.7 * total) - 1, total) > 0.5
    assert gumbel_temperature(10 * total, total) == 0.5


def test_falls_by_one_factor_per_update() -> None:
    """Half of the way down in the logarithm is a temperature of 1."""
    assert gumbel_temperature(350, 1000) == pytest.approx(1.0)
    factor = 0.25 ** (1 / 700)
    for step in (0, 1, 99, 600):
        assert gumbel_temperature(step, 1000) == pytest.approx(2 * factor**step)


def test_lineage_mode_is_wav2vec2s_rule() -> None:
    assert gumbel_temperature(48_828, 48_828, decay=WAV2VEC2_DECAY) == pytest.approx(1.567, abs=5e-4)
    assert gumbel_temperature(277_258, 400_000, decay=WAV2VEC2_DECAY) == pytest.approx(0.5, abs=1e-5)
    assert gumbel_temperature(400_000, 400_000, decay=WAV2VEC2_DECAY) == 0.5


def test_other_ends() -> None:
    assert gumbel_temperature(0, 100, start=1.0, floor=0.1) == 1.0
    assert gumbel_temperature(50, 100, start=1.0, floor=0.1, floor_at=0.5) == pytest.approx(0.1)
    assert gumbel_temperature(50, 100, start=1.0, floor=1.0) == 1.0
    assert gumbel_temperature(7, 100, decay=1.0) == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "`step` must be 0 or more"),
        ({"total_steps": 0}, "`total_steps` positive, got 0 and 0"),
        ({"floor": 0.0}, "0 < floor <= start, got 0.0 and 2.0"),
        ({"start": 0.4}, "0 < floor <= start, got 0.5 and 0.4"),
        ({"floor_at": 0.0}, "`floor_at` is a share of the run"),
        ({"floor_at": 1.5}, "`floor_at` is a share of the run"),
        ({"decay": 0.0}, "`decay` is a factor per update"),
        ({"decay": 1.5}, "`decay` is a factor per update"),
    ],
)
def test_errors_name_rule_and_value(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gumbel_temperature(**{"step": 0, "total_steps": 100, **arguments})  # type: ignore[arg-type]
