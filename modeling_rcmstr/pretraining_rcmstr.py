"""Pretraining of RCMSTR (arXiv:2411.11219): relational contrast and masked image modelling, one encoder.

    view 1 ───────────── encoder ─ projector ─────────── predictors ─┐
    view 1 ─ rearrange ─ encoder ─ projector ─ restore ─ predictors ─┼─ contrast within and between levels
    view 2 ───────────── momentum copy of the three ──────── keys ───┘  (earlier keys are the negatives)
    view 1 ─ mask ────── encoder ─ prediction head ──────────────────── pixel loss where it was hidden

The model is a function of views, keys, negatives, order and mask; the momentum copy and the queues belong to
the training loop. A recogniser keeps the encoder and leaves projector, predictors and prediction head behind.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .bidirectional_lstm import stack_bilstm
from .configuration_rcmstr import RCMSTRConfig
from .contrastive import pool_subwords
from .encoder_cnn import EncoderOutput
from .masking import sample_block_mask, sample_random_mask, upsample_mask
from .modeling_rcmstr import RCMSTRModel, RCMSTRPreTrainedModel
from .rearrangement import rearrange, restore, sample_order
from .recognition_heads import feature_sequence
from .reconstruction import PatchPrediction, build_reconstruction_head, masked_pixel_loss, patch_targets
from .relational_losses import relation_terms, sum_terms
from .sparse_convolution import SparseBatchNorm2d


@dataclass
class RCMSTRForPreTrainingOutput(ModelOutput):
    """What pretraining gives.

    Losses are unweighted except for `loss`; what the configuration leaves out is None.

    Args:
        loss: the sum of all `terms` under the configuration's weights.
        contrastive_loss: InfoNCE in nats per query, summed over the levels.
        consistency_loss: symmetric divergence of similarity distributions in nats per query, summed over the
            levels.
        inter_hierarchical_loss: the same between levels, summed over the pairs (with InfoNCE where that has a
            weight).
        reconstruction_loss: mean square error of hidden patches.
        terms: every part by name: "frame_contrastive", "subword_consistency", "frame_to_subword_consistency",
            …, "reconstruction".
        reconstruction: (B, C, H, W) predicted pixels in the scale of `pixel_values` and, with a rectifier, in
            the geometry of the rectified words; without gradient.
        visible: (B, 1, h, w) True where a patch could be seen.
        key_embeds: unit vectors (B, n, D) by level, without gradient; what belongs into the queues.
        query_embeds: unit vectors (B, n, D) by level of the first view, without gradient; of the plain words
            unless only rearranged ones were encoded.
    """

    loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    consistency_loss: Tensor | None = None
    inter_hierarchical_loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    reconstruction: Tensor | None = None
    visible: Tensor | None = None
    key_embeds: dict[str, Tensor] | None = None
    query_embeds: dict[str, Tensor] | None = None


class RCMSTRForPreTraining(RCMSTRPreTrainedModel):
    """Encoder, projector, predictors and prediction head, as far as the configuration uses them."""

    def __init__(self, config: RCMSTRConfig) -> None:
        """Build from the configuration."""
        super().__init__(config)
        masked = config.reconstruction_weight > 0
        if not masked and not config.query_levels:
            raise ValueError("there is nothing to learn: all weights of the configuration are 0.")
        if config.encoder_bilstm_layers and not config.query_levels:
            raise ValueError(
                "the masked branch alone does not train the encoder's LSTM layers: set "
                "`encoder_bilstm_layers=0`, or give the contrastive branch a weight."
            )
        self.model = RCMSTRModel(config, use_mask_token=masked)
        self.projector = self.predictors = self.reconstruction_head = None
        if config.query_levels:
            channels, size = self.model.out_channels, config.projector_size
            self.projector = stack_bilstm(channels, size, size, config.projector_layers)
            channels = size if config.projector_layers else channels
            self.predictors = nn.ModuleDict(
                {level: nn.Linear(channels, config.projection_dim) for level in config.query_levels}
            )
        if masked:
            self.reconstruction_head = build_reconstruction_head(config)
            if config.masked_batch_norm == "separate_buffers":
                for module in self.model.modules():
                    if isinstance(module, SparseBatchNorm2d):
                        module.keep_masked_statistics()
        self.post_init()
        # Here, unlike in a recogniser, a pretraining part that finds no place is worth a word.
        self._keys_to_ignore_on_load_unexpected = set()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; tensors that were loaded are left alone."""
        super()._init_weights(module)
        if isinstance(module, nn.ConvTranspose2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.ParameterList):  # the mask tokens
            for token in module:
                init.trunc_normal_(token, std=0.02)
        elif isinstance(module, PatchPrediction):
            # Near 0, so that the loss starts near the targets' own variance.
            init.trunc_normal_(module.weight, std=0.02)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Freeze the rectifier: building and loading both end here, and loading thaws everything."""
        super().tie_weights(*args, **kwargs)
        if self.model.rectifier is not None:
            self.model.rectifier.requires_grad_(False)

    def train(self, mode: bool = True) -> "RCMSTRForPreTraining":
        """Set the mode; the frozen rectifier stays a fixed function, with its running statistics."""
        super().train(mode)
        if self.model.rectifier is not None:
            self.model.rectifier.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        second_pixel_values: Tensor | None = None,
        keys: dict[str, Tensor] | None = None,
        negatives: dict[str, Tensor] | None = None,
        inter_negatives: dict[str, Tensor] | None = None,
        visible: Tensor | None = None,
        order: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> RCMSTRForPreTrainingOutput:
        """Compute all terms of one step.

        Args:
            pixel_values: (B, C, H, W) first view of each word, normalised; all of one width.
            second_pixel_values: (B, C, H, W) second view; needed for contrast without `keys`, and then
                encoded by this very model.
            keys: unit vectors of the second view by level, as `encode_keys` of the momentum copy gives them.
            negatives: (K, D) unit vectors by level (the queues before this step); the other keys of the batch
                when None.
            inter_negatives: the same for the terms between levels, where those differ (the released code
                compares with queues that hold this step's keys already); `negatives` when None.
            visible: (B, 1, h, w) True where a patch may be seen; drawn when None.
            order: (P,) order of the pieces in rearrangement; drawn when None.
            generator: source of what is drawn: order, coins, mask. None takes the global one.
            return_loss: compute losses; without them, no second view is needed.
            kwargs: options of the library's loops that do not concern this model.

        Returns:
            The losses, the reconstruction, mask, keys and queries.

        Raises:
            ValueError: for words of unequal width, missing keys or negatives, or sizes that do not fit.
        """
        self._check_images(pixel_values, second_pixel_values, kwargs.get("pixel_mask"))
        # Contrast draws first: with the masked branch on or off, it sees the same order.
        choices = self._choose_views(generator)
        if order is None and any("rearranged" in views for views in choices.values()):
            order = self.sample_order(generator)
        if visible is None and self.reconstruction_head is not None:
            visible = self.sample_visible(len(pixel_values), pixel_values.shape[-1], generator)
        if visible is not None:
            visible = visible.to(pixel_values.device)
        rectified = self.rectify(pixel_values)
        encoded = self._encode_views(self._make_views(pixel_values, rectified, visible, order, choices))
        terms: dict[str, Tensor] = {}
        query_embeds = reconstruction = None
        if self.predictors is not None:
            queries = self._embed_views(encoded, order)
            first = next(iter(queries.values()))
            query_embeds = {level: vectors.detach() for level, vectors in first.items()}
            if keys is None and second_pixel_values is not None:
                keys = self.encode_keys(second_pixel_values)
            if return_loss:
                terms |= relation_terms(self.config, queries, keys, negatives, inter_negatives, choices)
        if self.reconstruction_head is not None:
            assert visible is not None
            masked = encoded["masked" if self.config.decouple else "plain"]
            terms["reconstruction"], reconstruction = self._reconstruct(masked, rectified, visible)
        return RCMSTRForPreTrainingOutput(
            **(sum_terms(self.config, terms) if return_loss else {}),
            terms=terms if return_loss else None,
            reconstruction=reconstruction,
            visible=visible,
            key_embeds=keys,
            query_embeds=query_embeds,
        )

    def rectify(self, pixel_values: Tensor) -> Tensor:
        """Straighten words by the frozen rectifier; the words themselves without one."""
        if self.model.rectifier is None:
            return pixel_values
        with torch.no_grad():
            return self.model.rectifier(pixel_values)

    @torch.no_grad()
    def encode_keys(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Encode (B, C, H, W) whole words into unit vectors (B, n, D) by level, without gradient.

        In training mode, batch norm takes the statistics of these words and leaves the running ones alone. A
        momentum copy has no running statistics worth using: keep it in training mode.
        """
        if self.predictors is None:
            return {}
        encoded = self.model.encoder(self.rectify(pixel_values), update_statistics=False)
        hidden = self._project(_frames(encoded))
        return {level: self._embed(hidden, level) for level in self.config.key_levels}

    def sample_order(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw the (P,) order of the pieces for one step."""
        return sample_order(self.config.blocks_per_image, self.config.images_per_group, generator)

    def sample_visible(self, batch_size: int, width: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw which patches of words `width` pixels wide may be seen, (B, 1, h, w).

        Raises:
            ValueError: for a width that is no multiple of the mask unit.
        """
        config = self.config
        unit = config.mask_unit
        assert unit is not None
        if width % unit:
            raise ValueError(
                f"masks in units of {unit} pixels need an image width that is a multiple of it, got {width}."
            )
        grid = (config.image_size[0] // unit, width // unit)
        mask = sample_random_mask(batch_size, grid, config.mask_ratio, generator)
        if config.mask_num_blocks:
            mask |= sample_block_mask(
                batch_size, grid, config.mask_num_blocks, config.mask_block_width, generator
            )
        return ~upsample_mask(mask, unit // config.patch_size)

    def _check_images(self, pixel_values: Tensor, second: Tensor | None, pixel_mask: Tensor | None) -> None:
        if pixel_mask is not None:
            raise ValueError(
                "pretraining takes words of one width without padding; stretch them to a fixed size."
            )
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"`pixel_values` must be (batch, {self.config.num_channels}, height, width), got "
                f"{tuple(pixel_values.shape)}."
            )
        if second is not None and second.shape != pixel_values.shape:
            raise ValueError(
                f"both views of a batch must have one shape, got {tuple(pixel_values.shape)} and "
                f"{tuple(second.shape)}."
            )

    def _choose_views(self, generator: torch.Generator | None) -> dict[str, tuple[str, ...]]:
        """Name the views whose queries each level contrasts."""
        levels, views = self.config.key_levels, self.config.query_views
        if views != "either":
            chosen = ("plain", "rearranged") if views == "both" else (views,)
            return dict.fromkeys(levels, chosen)
        device = torch.device("cpu") if generator is None else generator.device
        coins = torch.randint(2, (len(levels),), generator=generator, device=device).tolist()
        return {level: (("plain", "rearranged")[coin],) for level, coin in zip(levels, coins, strict=True)}

    def _make_views(
        self,
        pixel_values: Tensor,
        rectified: Tensor,
        visible: Tensor | None,
        order: Tensor | None,
        choices: dict[str, tuple[str, ...]],
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Give the online passes by name: rectified images and what may be seen of them."""
        config = self.config
        coupled = None if config.decouple else visible
        views: dict[str, tuple[Tensor, Tensor | None]] = {}
        if config.inter_pairs or not config.decouple or any("plain" in names for names in choices.values()):
            views["plain"] = (rectified, coupled)
        if any("rearranged" in names for names in choices.values()):
            assert order is not None
            source = rectified if config.rearrange_after_rectifier else pixel_values
            collage = rearrange(source, order, config.blocks_per_image, config.images_per_group)
            if not config.rearrange_after_rectifier:
                collage = self.rectify(collage)
            views["rearranged"] = (collage, coupled)
        if config.decouple and self.reconstruction_head is not None:
            views["masked"] = (rectified, visible)
        return views

    def _encode_views(self, views: dict[str, tuple[Tensor, Tensor | None]]) -> dict[str, EncoderOutput]:
        """Run the encoder on all views in as few passes as batch norm allows (`joint_views`)."""
        names = list(views)
        if not self.config.joint_views:
            passes = [[name] for name in names]
        elif self.config.encoder_type == "vit":
            passes = [names]
        else:  # dense and sparse statistics stay apart
            by_kind = [
                [name for name in names if (views[name][1] is None) == dense] for dense in (True, False)
            ]
            passes = [joint for joint in by_kind if joint]
        encoded: dict[str, EncoderOutput] = {}
        for joint in passes:
            pixel_values = torch.cat([views[name][0] for name in joint])
            masks = [views[name][1] for name in joint]
            visible = None
            known = next((mask for mask in masks if mask is not None), None)
            if known is not None:
                visible = torch.cat([torch.ones_like(known) if mask is None else mask for mask in masks])
            update = visible is None or self.config.masked_batch_norm != "batch_no_update"
            output = self.model.encoder(pixel_values, visible, update_statistics=update)
            encoded.update(zip(joint, _split(output, len(joint)), strict=True))
        return encoded

    def _project(self, frames: Tensor) -> Tensor:
        """Turn (B, T, C) frames of the encoder into (B, T, C') frames of the projector."""
        assert self.projector is not None
        for layer in (*self.model.recurrent, *self.projector):
            frames = layer(frames)
        return frames

    def _embed(self, hidden: Tensor, level: str) -> Tensor:
        """Pool (B, T, C') frames to a level, predict, and normalise: (B, n, D)."""
        assert self.predictors is not None
        if level == "subword":
            hidden = pool_subwords(hidden, self.config.num_subwords)
        elif level == "word":
            hidden = hidden.mean(1, keepdim=True)
        vectors = self.predictors[level](hidden)
        return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)

    def _embed_views(
        self, encoded: dict[str, EncoderOutput], order: Tensor | None
    ) -> dict[str, dict[str, Tensor]]:
        """Give the queries (B, n, D) by view and level, the plain view first, all frames at their places."""
        frames = {name: _frames(encoded[name]) for name in ("plain", "rearranged") if name in encoded}
        names = list(frames)
        hidden = self._project(torch.cat(list(frames.values())))
        parts = dict(zip(names, hidden.chunk(len(names)), strict=True))
        if "rearranged" in parts:
            assert order is not None
            blocks, group = self.config.blocks_per_image, self.config.images_per_group
            parts["rearranged"] = restore(parts["rearranged"], order, blocks, group)
        hidden = torch.cat(list(parts.values()))
        vectors = {level: self._embed(hidden, level).chunk(len(names)) for level in self.config.query_levels}
        return {name: {level: chunks[i] for level, chunks in vectors.items()} for i, name in enumerate(names)}

    def _reconstruct(
        self, encoded: EncoderOutput, pixel_values: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the masked pixel loss and the predicted images."""
        assert self.reconstruction_head is not None
        patch_size = self.config.patch_size
        prediction = self.reconstruction_head(encoded)
        targets = patch_targets(pixel_values, patch_size, self.config.normalize_targets)
        patches = prediction.detach() * targets.deviation + targets.mean
        return masked_pixel_loss(prediction, targets.values, visible), F.pixel_shuffle(patches, patch_size)


def _frames(encoded: EncoderOutput) -> Tensor:
    assert encoded.last_hidden_state is not None
    return feature_sequence(encoded.last_hidden_state, None)[0]


def _split(output: EncoderOutput, parts: int) -> list[EncoderOutput]:
    """Take the views of a joint pass apart; they are slices, not copies."""

    def chunk(maps: tuple[Tensor, ...] | None) -> list[tuple[Tensor, ...] | None]:
        if maps is None:
            return [None] * parts
        return list(zip(*(feature_map.chunk(parts) for feature_map in maps), strict=True))

    assert output.last_hidden_state is not None
    rows = zip(
        output.last_hidden_state.chunk(parts), chunk(output.hidden_states), chunk(output.active), strict=True
    )
    return [EncoderOutput(last, hidden_states=states, active=active) for last, states, active in rows]
