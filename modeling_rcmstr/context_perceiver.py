"""PerSec's context perceiver (AAAI 2022, doi:10.1609/aaai.v36i2.20062): targets, and their prediction.

    feature map → scaled gradient → layer norm ─┬→ quantiser → linear map                    = targets
                                                └→ linear map, mask → window attention → … = context

wav2vec 2.0's recipe (arXiv:2006.11477) on a map of rows and columns. Stroke and semantic perceiver are this
one module with other numbers. The encoder is never masked: it is the projected feature that a learned vector
replaces, in the context branch only. Which positions are masked is drawn in `feature_masking`; the losses are
in `perceiver_losses`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .configuration_persec import PerceiverLevel, PerSecConfig
from .feature_masking import sample_span_mask
from .perceiver_losses import (
    codebook_diversity_loss,
    feature_penalty,
    masked_queries,
    perceiver_contrastive_loss,
    sample_distractors,
)
from .quantizer import GumbelQuantizer, code_perplexity, code_probabilities
from .window_attention import WindowAttention, WindowAttentionLayer


class PerceiverOutput(NamedTuple):
    """What a perceiver gives for a (B, C, h, w) map; a tuple for the same reason as `QuantizerOutput`.

    Args:
        features: (B, h, w, C) the map itself, its gradient scaled.
        projected: (B, h, w, d) the context branch's input, masked positions replaced.
        context: (B, h, w, d) predictions.
        targets: (B, h, w, d) what they are held against.
        codes: (B, h, w, G) codes of the targets; None without a quantiser.
        code_logits: (B, h, w, G, V) scores of the codes without noise; None without a quantiser.
        attentions: weights of each aggregator layer, (B, windows, heads, positions, positions).
    """

    features: Tensor
    projected: Tensor
    context: Tensor
    targets: Tensor
    codes: Tensor | None
    code_logits: Tensor | None
    attentions: tuple[Tensor, ...]


@dataclass(frozen=True)
class PerceiverTerms:
    """The unweighted losses of one level and what a log says of them.

    Args:
        contrastive_loss: mean over masked positions, in nats.
        contrastive_accuracy: share of masked positions whose target beats every distractor.
        diversity_loss: share of codes not in use; 0 without a quantiser.
        feature_penalty: mean square of the feature.
        perplexity: codes effectively in use by the mean noise-free softmax, summed over codebooks; None
            without a quantiser.
    """

    contrastive_loss: Tensor
    contrastive_accuracy: Tensor
    diversity_loss: Tensor
    feature_penalty: Tensor
    perplexity: Tensor | None


class _ScaledGradient(torch.autograd.Function):
    """Identity forward, a factor backward."""

    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return `values` unchanged and multiply the gradient that comes back by `factor`."""
    return values if factor == 1 else _ScaledGradient.apply(values, factor)


class ContextPerceiver(nn.Module):
    """Masks a feature map, predicts from context, quantises the true feature.

    Args:
        config: PerSec configuration.
        level: the numbers of this level, `config.stroke_level` or `config.semantic_level`.
        input_size: channels C of the feature.
    """

    def __init__(self, config: PerSecConfig, level: PerceiverLevel, input_size: int) -> None:
        super().__init__()
        size = config.perceiver_hidden_size
        self.config = config
        self.level = level
        self.layernorm = nn.LayerNorm(input_size)
        self.feature_dropout = nn.Dropout(config.feature_dropout)
        self.quantizer = None
        if config.quantize_targets:
            self.quantizer = GumbelQuantizer(
                input_size, config.num_codebooks, config.codebook_size, config.codevector_size
            )
        self.target_projection = nn.Linear(
            config.codevector_size if config.quantize_targets else input_size, size
        )
        self.input_projection = nn.Linear(input_size, size)
        self.mask_vector = nn.Parameter(torch.empty(size).uniform_())
        self.layers = nn.ModuleList(
            WindowAttentionLayer(
                WindowAttention(
                    size,
                    config.perceiver_attention_heads,
                    level.window,
                    config.relative_position_bias,
                    config.max_position_columns,
                ),
                size,
                config.aggregator_dropout,
                shift=config.aggregator_shift and index % 2 == 1,
            )
            for index in range(config.aggregator_layers)
        )
        self.context_layernorm = nn.LayerNorm(size)
        self.context_projection = nn.Linear(size, size)

    def forward(
        self,
        feature_map: Tensor,
        valid: Tensor,
        mask: Tensor,
        gumbel_temperature: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> PerceiverOutput:
        """Make targets and predictions at every position.

        Args:
            feature_map: (B, C, h, w).
            valid: (B, h, w) True where a position belongs to the word.
            mask: (B, h, w) True where the context branch does not see the feature.
            gumbel_temperature: of the quantiser's training draw.
            generator: source of that draw.

        Returns:
            Features, predictions, targets and codes. What stands at padding means nothing.
        """
        features = scale_gradient(feature_map.permute(0, 2, 3, 1), self.level.grad_scale)  # (B, h, w, C)
        normalized = self.layernorm(features)
        target, codes, code_logits = self.feature_dropout(normalized), None, None
        if self.quantizer is not None:
            quantized = self.quantizer(target, gumbel_temperature, generator)
            target, codes, code_logits = quantized.codevectors, quantized.codes, quantized.logits
        projected = self.input_projection(self.feature_dropout(normalized))
        projected = torch.where(mask[..., None], self.mask_vector.to(projected.dtype), projected)
        hidden, attentions = projected, []
        for layer in self.layers:
            hidden, weights = layer(hidden, valid)
            attentions.append(weights)
        return PerceiverOutput(
            features=features,
            projected=projected,
            context=self.context_projection(self.context_layernorm(hidden)),
            targets=self.target_projection(target),
            codes=codes,
            code_logits=code_logits,
            attentions=tuple(attentions),
        )

    def sample_mask(self, valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the masked positions, (B, h, w) bool, of words whose positions are `valid` (B, h, w)."""
        return sample_span_mask(
            valid, self.level.mask_ratio, self.level.mask_span, self.config.min_masked_positions, generator
        )


def perceiver_terms(
    config: PerSecConfig,
    output: PerceiverOutput,
    valid: Tensor,
    mask: Tensor,
    generator: torch.Generator | None = None,
) -> PerceiverTerms:
    """Compute the losses of one level.

    Args:
        config: PerSec configuration; its weights play no part here.
        output: what the level's perceiver gave.
        valid: (B, h, w) True where a position belongs to the word.
        mask: (B, h, w) True where the feature was masked; a part of `valid`.
        generator: source of the distractors.

    Returns:
        Every term unweighted.
    """
    queries = masked_queries(mask.flatten(1))
    distractors = sample_distractors(
        queries, valid.flatten(1), config.num_negatives, config.negatives_scope, generator
    )
    codes = None if output.codes is None else output.codes.flatten(1, 2)
    contrast = perceiver_contrastive_loss(
        output.context.flatten(1, 2),
        output.targets.flatten(1, 2),
        codes,
        queries,
        distractors,
        config.contrastive_temperature,
    )
    diversity_loss, perplexity = contrast.loss.new_zeros(()), None
    if output.code_logits is not None and output.codes is not None:
        counted = mask if config.diversity_scope == "masked" else valid
        perplexities = code_perplexity(code_probabilities(output.code_logits[counted]))  # (G,)
        diversity_loss = codebook_diversity_loss(perplexities, config.codebook_size)
        perplexity = perplexities.detach().sum()
    return PerceiverTerms(
        contrastive_loss=contrast.loss,
        contrastive_accuracy=contrast.accuracy,
        diversity_loss=diversity_loss,
        feature_penalty=feature_penalty(output.features, valid),
        perplexity=perplexity,
    )
