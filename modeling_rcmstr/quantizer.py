"""Product quantisation with Gumbel softmax, gradient straight through (wav2vec 2.0, arXiv:2006.11477, §2).

Each of G codebooks holds V entries; a position takes one entry of each, so V^G codevectors are within reach.
In training the entry is drawn from the softmax of the logits (the Gumbel trick), forward with the entry
itself, backward with the softened draw; in evaluation it is the largest logit. The temperature is an
argument: its schedule belongs to a run. The loss that keeps the codebooks in use is in `perceiver_losses`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuantizerOutput(NamedTuple):
    """What the quantiser gives for (…, C) features.

    A tuple, because DeepSpeed's ZeRO-3 finds the tensors of a module's output in tuples, lists and dicts
    only.

    Args:
        codevectors: (…, codevector size) the chosen entries side by side.
        codes: (…, G) index of the chosen entry of each codebook.
        logits: (…, G, V) scores without noise, in float32 or better.
        selection: (…, G, V) one-hot choice; carries the straight-through gradient in training.
    """

    codevectors: Tensor
    codes: Tensor
    logits: Tensor
    selection: Tensor


def sample_gumbel(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard Gumbel noise shaped like `logits`, on the generator's device and then moved.

    Without a generator, PyTorch's global one is used.
    """
    device = logits.device if generator is None else generator.device
    exponential = torch.empty(logits.shape, dtype=logits.dtype, device=device).exponential_(
        generator=generator
    )
    # An exponential draw may round to 0, whose logarithm is infinite.
    return -exponential.clamp_(min=torch.finfo(logits.dtype).tiny).log_().to(logits.device)


def straight_through_gumbel_softmax(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Choose one entry: one-hot forward, the softmax of the noisy logits backward (arXiv:1611.01144).

    Args:
        logits: (…, V).
        noise: (…, V) Gumbel noise, or zeros.
        temperature: divides the noisy logits; low is hard, high is soft. It does not change what is chosen.

    Returns:
        (…, V) exactly one 1, otherwise 0.

    Raises:
        ValueError: when `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(
            f"the Gumbel temperature must be positive, got {temperature}; the lineage goes from 2 to 0.5."
        )
    noisy = logits + noise
    soft = (noisy / temperature).softmax(-1)
    hard = F.one_hot(noisy.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0


class GumbelQuantizer(nn.Module):
    """Product quantiser.

    Args:
        input_size: channels C of the features.
        num_codebooks: G.
        codebook_size: V entries of each codebook.
        codevector_size: channels of the entries side by side; divisible by G.

    Raises:
        ValueError: when the codebooks do not divide the codevector.
    """

    def __init__(self, input_size: int, num_codebooks: int, codebook_size: int, codevector_size: int) -> None:
        super().__init__()
        if codevector_size % num_codebooks:
            raise ValueError(
                f"`codevector_size` {codevector_size} must be divisible by `num_codebooks` {num_codebooks}."
            )
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.logits = nn.Linear(input_size, num_codebooks * codebook_size)
        self.codebooks = nn.Parameter(
            torch.empty(num_codebooks, codebook_size, codevector_size // num_codebooks).uniform_()
        )
        # Wide logits from the first step on: entries must differ before they can be learned apart.
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(
        self, features: Tensor, temperature: float = 2.0, generator: torch.Generator | None = None
    ) -> QuantizerOutput:
        """Quantise.

        Args:
            features: (…, C).
            temperature: of the Gumbel softmax; of no effect in evaluation.
            generator: source of the training noise; of no effect in evaluation.

        Returns:
            Codevectors, codes, logits and the choice.

        Raises:
            ValueError: in training, when `temperature` is not positive.
        """
        logits = self.logits(features)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits.unflatten(-1, (self.num_codebooks, self.codebook_size))  # (…, G, V)
        if self.training:
            selection = straight_through_gumbel_softmax(
                logits, sample_gumbel(logits.detach(), generator), temperature
            )
        else:
            selection = F.one_hot(logits.argmax(-1), self.codebook_size).to(logits.dtype)
        chosen = torch.einsum("...gv,gvd->...gd", selection.to(self.codebooks.dtype), self.codebooks)
        return QuantizerOutput(
            codevectors=chosen.flatten(-2),
            codes=selection.argmax(-1),
            logits=logits,
            selection=selection,
        )


def code_probabilities(logits: Tensor) -> Tensor:
    """Average how likely each code is, without noise, over the positions that count.

    Args:
        logits: (P, G, V).

    Returns:
        (G, V) shares that sum to 1 over V; all alike without positions.
    """
    if len(logits):
        return logits.softmax(-1).mean(0)
    # Still a function of the logits, so that every parameter takes part in every backward pass.
    return logits.sum(0) + 1 / logits.shape[-1]


def code_perplexity(probabilities: Tensor) -> Tensor:
    """Count the codes that are effectively in use: the exponential of the entropy.

    Args:
        probabilities: (…, V) shares of the entries of a codebook; they sum to 1.

    Returns:
        (…) from 1 (always the same entry) to V (all entries alike).
    """
    # Shares underflow to 0, where the gradient of p log p, written plainly, is not a number.
    logarithm = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
    return torch.exp(-(probabilities * logarithm).sum(-1))
