"""The product quantiser: exact choices, the soft draw's gradient, the Gumbel trick, perplexity."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.quantizer import (
    GumbelQuantizer,
    code_perplexity,
    code_probabilities,
    sample_gumbel,
    straight_through_gumbel_softmax,
)


@pytest.fixture
def quantizer() -> GumbelQuantizer:
    """The paper's codebooks on a narrow feature."""
    return GumbelQuantizer(24, 2, 256, 128)


def test_starts_like_wav2vec2() -> None:
    quantizer = GumbelQuantizer(256, 2, 256, 128)
    assert quantizer.codebooks.shape == (2, 256, 64)
    assert 0 <= float(quantizer.codebooks.detach().min()) < 0.01
    assert 0.99 < float(quantizer.codebooks.detach().max()) <= 1
    assert float(quantizer.logits.weight.detach().std()) == pytest.approx(1, rel=0.02)
    assert not quantizer.logits.bias.any()


@pytest.mark.parametrize("training", [True, False])
def test_selection_is_one_hot_and_codes_are_its_argmax(quantizer: GumbelQuantizer, training: bool) -> None:
    output = quantizer.train(training)(torch.randn(3, 5, 24))
    assert output.selection.shape == (3, 5, 2, 256)
    ordered = output.selection.sort(-1).values
    assert (ordered[..., -1] == 1).all()
    assert (ordered[..., :-1] == 0).all()
    assert torch.equal(output.codes, output.selection.argmax(-1))


@pytest.mark.parametrize("training", [True, False])
def test_codevector_is_the_chosen_entries_side_by_side(quantizer: GumbelQuantizer, training: bool) -> None:
    output = quantizer.train(training)(torch.randn(4, 24))
    for row, codes in enumerate(output.codes.tolist()):
        entries = [quantizer.codebooks[book, code] for book, code in enumerate(codes)]
        torch.testing.assert_close(output.codevectors[row], torch.cat(entries), rtol=0, atol=1e-5)


def test_evaluation_takes_the_largest_logit_whatever_temperature_and_seed(quantizer: GumbelQuantizer) -> None:
    quantizer.eval()
    features = torch.randn(7, 24)
    logits = features @ quantizer.logits.weight.T + quantizer.logits.bias
    first = quantizer(features, temperature=2.0, generator=torch.Generator().manual_seed(1))
    second = quantizer(features, temperature=0.01, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first.codes, logits.reshape(7, 2, 256).argmax(-1))
    assert torch.equal(first.codevectors, second.codevectors)


def test_training_repeats_with_its_seed_and_does_not_change_it_otherwise(quantizer: GumbelQuantizer) -> None:
    torch.nn.init.normal_(quantizer.logits.weight, std=0.01)  # flat enough for the noise to decide
    features = torch.randn(50, 24)
    state = torch.get_rng_state()
    first, again, other = (
        quantizer(features, generator=torch.Generator().manual_seed(seed)).codes for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gradient_is_that_of_the_soft_draw(temperature: float) -> None:
    """Closed form: d/dl_i of w · softmax((l + n) / tau) is s_i (w_i - w · s) / tau."""
    random = np.random.default_rng(0)
    logits, noise, weight = (random.normal(size=(3, 5)) for _ in range(3))
    tensor = torch.tensor(logits, requires_grad=True)
    (
        straight_through_gumbel_softmax(tensor, torch.tensor(noise), temperature) * torch.tensor(weight)
    ).sum().backward()
    exponent = np.exp((logits + noise) / temperature)
    soft = exponent / exponent.sum(-1, keepdims=True)
    expected = soft * (weight - (weight * soft).sum(-1, keepdims=True)) / temperature
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-10, atol=1e-14)
    assert (np.abs(expected) > 0).all()  # entries that were not chosen learn too


def test_quantizer_passes_gradient_to_logits_and_chosen_entries(quantizer: GumbelQuantizer) -> None:
    output = quantizer(torch.randn(6, 24))
    output.codevectors.square().sum().backward()
    assert quantizer.logits.weight.grad is not None
    assert quantizer.codebooks.grad is not None
    touched = quantizer.codebooks.grad.abs().sum(-1) > 0
    for book in range(2):
        assert set(touched[book].nonzero()[:, 0].tolist()) == set(output.codes[:, book].tolist())
    assert quantizer.logits.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_entries_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    """Chi-square over 20,000 draws at 5 degrees of freedom: 20.5 is exceeded once in a thousand."""
    logits = torch.tensor([0.0, 0.5, -1.0, 1.5, 0.2, -0.4], dtype=torch.float64)
    rows = logits.expand(20_000, 6)
    noise = sample_gumbel(rows, torch.Generator().manual_seed(3))
    counts = straight_through_gumbel_softmax(rows, noise, temperature).sum(0)
    expected = 20_000 * logits.exp() / logits.exp().sum()
    assert float(((counts - expected) ** 2 / expected).sum()) < 20.5


def test_noise_is_standard_gumbel() -> None:
    noise = sample_gumbel(torch.zeros(200_000), torch.Generator().manual_seed(0))
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert float((noise < 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.005)


def test_noise_stays_finite_when_a_draw_rounds_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return values.zero_()

    monkeypatch.setattr(Tensor, "exponential_", nothing)
    assert torch.isfinite(sample_gumbel(torch.zeros(3))).all()


def test_logits_are_float32_in_half_precision() -> None:
    quantizer = GumbelQuantizer(8, 2, 16, 8).bfloat16()
    output = quantizer(torch.randn(5, 8, dtype=torch.bfloat16))
    assert output.logits.dtype == torch.float32
    assert output.codevectors.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer.float()(torch.randn(5, 8)).logits.dtype == torch.float32


def test_perplexity_of_known_distributions() -> None:
    even = torch.full((2, 256), 1 / 256, dtype=torch.float64)
    single = torch.zeros(2, 256, dtype=torch.float64)
    single[:, 7] = 1
    half = torch.zeros(256, dtype=torch.float64)
    half[:2] = 0.5
    assert code_perplexity(even).tolist() == pytest.approx([256, 256])
    assert code_perplexity(single).tolist() == pytest.approx([1, 1])
    assert float(code_perplexity(half)) == pytest.approx(2)


def test_perplexity_has_a_gradient_where_shares_vanish() -> None:
    """Wide logits make shares of exactly 0 in float32."""
    logits = torch.tensor([[[200.0, 0.0, -200.0]]], requires_grad=True)
    probabilities = code_probabilities(logits)
    assert float(probabilities.detach().min()) == 0
    code_perplexity(probabilities).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_probabilities_are_the_mean_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 2, 5))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(code_probabilities(torch.tensor(logits)).numpy(), shares.mean(0), rtol=1e-12)


def test_probabilities_of_no_position_are_even_and_still_carry_gradient() -> None:
    logits = torch.zeros(0, 2, 4, requires_grad=True)
    probabilities = code_probabilities(logits)
    assert torch.equal(probabilities.detach(), torch.full((2, 4), 0.25))
    probabilities.sum().backward()
    assert logits.grad is not None


def test_errors_name_rule_and_value(quantizer: GumbelQuantizer) -> None:
    with pytest.raises(ValueError, match=r"`codevector_size` 10 must be divisible by `num_codebooks` 3"):
        GumbelQuantizer(8, 3, 4, 10)
    with pytest.raises(ValueError, match=r"Gumbel temperature must be positive, got 0"):
        quantizer(torch.randn(2, 24), temperature=0)
