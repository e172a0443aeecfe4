"""Pretraining of PerSec (AAAI 2022, doi:10.1609/aaai.v36i2.20062): stroke and semantic context perceivers.

One view, no label, no second network: each level tells the quantised feature of a masked position from
distractors by its context. The perceivers are plugged in beside the encoder, which runs as it does for
reading, and are left behind when a recogniser is loaded from a pretraining checkpoint.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_persec import PerSecConfig
from .context_perceiver import ContextPerceiver, PerceiverTerms, perceiver_terms
from .encoder_cnn import EncoderOutput
from .modeling_persec import PerSecModel, PerSecPreTrainedModel
from .quantizer import GumbelQuantizer
from .window_attention import WindowAttention


@dataclass
class PerSecForPreTrainingOutput(ModelOutput):
    """What pretraining gives. Losses are unweighted except for `loss`.

    Args:
        loss: the sum of all terms under `config.loss_weights`.
        stroke_contrastive_loss: mean over masked positions, in nats; log(1 + distractors) when nothing is
            learned.
        semantic_contrastive_loss: the same for the semantic level.
        stroke_diversity_loss: share of codes not in use, 0 to 1 - 1 / codebook size; 0 without a quantiser.
        semantic_diversity_loss: the same for the semantic level.
        stroke_feature_penalty: mean square of the tapped feature.
        semantic_feature_penalty: the same for the semantic level.
        stroke_perplexity: codes effectively in use, summed over the codebooks; None without a quantiser.
        semantic_perplexity: the same for the semantic level.
        stroke_contrastive_accuracy: share of masked positions whose target beats every distractor.
        semantic_contrastive_accuracy: the same for the semantic level.
        stroke_codes: (B, h, w, codebooks) code of each position; means nothing at padding; None without a
            quantiser.
        semantic_codes: (B, 1, w', codebooks) likewise; a ViT's rows stay with `semantic_pool="none"`.
        stroke_mask: (B, h, w) True where the feature was masked.
        semantic_mask: the same for the semantic level.
        stroke_valid: (B, h, w) True where a position belongs to the word.
        semantic_valid: the same for the semantic level.
        stroke_attentions: weights of each aggregator layer (B, windows, heads, positions, positions), on
            request.
        semantic_attentions: the same for the semantic level.
    """

    loss: Tensor | None = None
    stroke_contrastive_loss: Tensor | None = None
    semantic_contrastive_loss: Tensor | None = None
    stroke_diversity_loss: Tensor | None = None
    semantic_diversity_loss: Tensor | None = None
    stroke_feature_penalty: Tensor | None = None
    semantic_feature_penalty: Tensor | None = None
    stroke_perplexity: Tensor | None = None
    semantic_perplexity: Tensor | None = None
    stroke_contrastive_accuracy: Tensor | None = None
    semantic_contrastive_accuracy: Tensor | None = None
    stroke_codes: Tensor | None = None
    semantic_codes: Tensor | None = None
    stroke_mask: Tensor | None = None
    semantic_mask: Tensor | None = None
    stroke_valid: Tensor | None = None
    semantic_valid: Tensor | None = None
    stroke_attentions: tuple[Tensor, ...] | None = None
    semantic_attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class TappedFeatures:
    """What the perceivers read: (B, C, h, w) maps and (B, h, w) True where a position belongs to the word."""

    stroke: Tensor
    semantic: Tensor
    stroke_valid: Tensor
    semantic_valid: Tensor


class PerSecForPreTraining(PerSecPreTrainedModel):
    """PerSec encoder with its two context perceivers."""

    _no_split_modules = ["ViTLayer", "ResidualBlock", "ResNet45Block", "ContextPerceiver"]

    def __init__(self, config: PerSecConfig) -> None:
        """Build encoder and perceivers from the configuration."""
        super().__init__(config)
        self.model = PerSecModel(config)
        self.stroke_perceiver = ContextPerceiver(config, config.stroke_level, self._stroke_channels())
        self.semantic_perceiver = ContextPerceiver(config, config.semantic_level, self._semantic_channels())
        self.post_init()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Keep LSTM layers behind the semantic tap out of training; called after building and loading."""
        super().tie_weights(*args, **kwargs)
        if self.config.semantic_tap == "before_bilstm":
            self.model.recurrent.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        gumbel_temperature: float = 2.0,
        generator: torch.Generator | None = None,
        stroke_mask: Tensor | None = None,
        semantic_mask: Tensor | None = None,
        return_loss: bool = True,
        output_attentions: bool | None = None,
        **kwargs: Any,  # noqa: ARG002 (options of the library's loops)
    ) -> PerSecForPreTrainingOutput:
        """Pretrain on a batch of words.

        Args:
            pixel_values: (B, C, H, W) normalised images, W a multiple of 4.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
                Padding is never masked, never a distractor and never counted.
            gumbel_temperature: of the quantisers' draws in training; a run lowers it step by step.
            generator: source of masks, draws and distractors; None for PyTorch's global one.
            stroke_mask: (B, h, w) True where the stroke feature is masked; drawn when absent. Padding in it
                is ignored.
            semantic_mask: the same for the semantic feature.
            return_loss: whether to compute losses; without, nothing is masked and there are codes only.
            output_attentions: return the weights of the perceivers' windows.
            kwargs: options of the library's loops that do not concern this model.

        Returns:
            The weighted `loss`, every term unweighted, codes and masks.

        Raises:
            ValueError: for unusable images or masks, or in training a temperature that is not positive.
        """
        taps = self.tap_features(pixel_values, pixel_mask)
        fields: dict[str, Any] = {}
        terms: dict[str, PerceiverTerms] = {}
        for name, perceiver, feature_map, valid, mask in (
            ("stroke", self.stroke_perceiver, taps.stroke, taps.stroke_valid, stroke_mask),
            ("semantic", self.semantic_perceiver, taps.semantic, taps.semantic_valid, semantic_mask),
        ):
            if mask is None:
                mask = perceiver.sample_mask(valid, generator) if return_loss else torch.zeros_like(valid)
            elif mask.shape != valid.shape:
                raise ValueError(
                    f"`{name}_mask` must be {tuple(valid.shape)} for these images, got {tuple(mask.shape)}; "
                    f"draw it with `model.{name}_perceiver.sample_mask` or leave it out."
                )
            mask = mask.bool() & valid
            output = perceiver(feature_map, valid, mask, gumbel_temperature, generator)
            fields |= {f"{name}_mask": mask, f"{name}_valid": valid}
            if output.codes is not None:
                fields[f"{name}_codes"] = output.codes.masked_fill(~valid[..., None], -1)
            if output_attentions:
                fields[f"{name}_attentions"] = output.attentions
            if return_loss:
                terms[name] = perceiver_terms(self.config, output, valid, mask, generator)
                fields |= {f"{name}_{term}": value for term, value in vars(terms[name]).items()}
        if return_loss:
            fields["loss"] = self._total(terms["stroke"], terms["semantic"])
        return PerSecForPreTrainingOutput(**fields)

    def tap_features(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> TappedFeatures:
        """Run the encoder, unmasked, and return the two maps that the perceivers read.

        Args:
            pixel_values: (B, C, H, W) normalised images.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right, or None.

        Raises:
            ValueError: for unusable images or masks.
        """
        encoded = self._encode(pixel_values, pixel_mask)
        assert encoded.hidden_states is not None
        assert encoded.last_hidden_state is not None
        stroke = encoded.hidden_states[self.config.stroke_tap_index]
        before = self.config.semantic_tap == "before_bilstm"
        semantic = encoded.hidden_states[-1] if before else encoded.last_hidden_state
        if self.config.semantic_pool == "mean":
            semantic = semantic.mean(2, keepdim=True)  # (B, C, 1, w')
        columns = None
        if pixel_mask is not None:
            # Every layer takes the same number of columns from a word as from its padded image.
            padding = (pixel_values.shape[-1] - pixel_mask[:, 0].sum(-1)) // self.config.stroke_tap_stride
            columns = (
                torch.arange(stroke.shape[-1], device=stroke.device) < (stroke.shape[-1] - padding)[:, None]
            )
        return TappedFeatures(
            stroke,
            semantic,
            _valid_positions(stroke, columns),
            _valid_positions(semantic, encoded.frame_mask),
        )

    def _encode(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> EncoderOutput:
        return self.model(pixel_values, pixel_mask=pixel_mask, output_hidden_states=True, return_dict=True)

    def _total(self, stroke: PerceiverTerms, semantic: PerceiverTerms) -> Tensor:
        weights = self.config.loss_weights
        return (
            weights.semantic_contrastive * semantic.contrastive_loss
            + weights.stroke_contrastive * stroke.contrastive_loss
            + weights.semantic_diversity * semantic.diversity_loss
            + weights.stroke_diversity * stroke.diversity_loss
            + weights.semantic_penalty * semantic.feature_penalty
            + weights.stroke_penalty * stroke.feature_penalty
        )

    def _stroke_channels(self) -> int:
        if self.config.encoder_type == "vit":
            return self.config.hidden_size
        assert self.config.embedding_sizes is not None
        assert self.config.hidden_sizes is not None
        return (self.config.embedding_sizes[-1], *self.config.hidden_sizes)[self.config.stroke_tap_index]

    def _semantic_channels(self) -> int:
        before = self.config.semantic_tap == "before_bilstm"
        return self.model.encoder.out_channels if before else self.model.out_channels

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; the perceivers as in wav2vec 2.0, whatever the encoder."""
        super()._init_weights(module)
        if isinstance(module, WindowAttention) and module.relative_position_bias is not None:
            init.trunc_normal_(module.relative_position_bias, std=0.02)
        elif isinstance(module, ContextPerceiver):
            # Children come before their parent: this is the last word on the perceiver's linear maps.
            for child in module.modules():
                if isinstance(child, nn.Linear):
                    init.trunc_normal_(child.weight, std=child.in_features**-0.5)
            init.uniform_(module.mask_vector)
            if module.quantizer is not None:
                _initialize_quantizer(module.quantizer)


def _initialize_quantizer(quantizer: GumbelQuantizer) -> None:
    init.normal_(quantizer.logits.weight)
    init.uniform_(quantizer.codebooks)


def _valid_positions(feature_map: Tensor, columns: Tensor | None) -> Tensor:
    """Spread valid `columns` (B, w), None for all, over the rows of a (B, C, h, w) map: (B, h, w)."""
    batch, _, height, width = feature_map.shape
    if columns is None:
        return torch.ones((batch, height, width), dtype=torch.bool, device=feature_map.device)
    return columns[:, None].expand(-1, height, -1)
