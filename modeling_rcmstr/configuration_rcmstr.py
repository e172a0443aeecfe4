"""Configuration of RCMSTR (arXiv:2411.11219), and the rows of its predecessor RCLSTR (arXiv:2308.00508)."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_text_recognition import TextRecognitionConfig

LEVELS = ("frame", "subword", "word")
QUERY_VIEWS = ("plain", "rearranged", "both", "either")
INTER_HIERARCHICAL_PAIRS = ("frame_to_subword", "subword_to_word", "frame_to_word")
KL_REDUCTIONS = ("batchmean", "mean")
MASKED_BATCH_NORMS = ("batch_no_update", "separate_buffers", "shared_buffers")

_SUBWORD_ONLY: dict[str, Any] = {
    "query_views": "plain",
    "contrastive_weights": (0.0, 1.0, 0.0),
    "consistency_weights": (0.0, 0.3, 0.0),
    "inter_consistency_weight": 0.0,
    "reconstruction_weight": 0.0,
}
# Rows of RCLSTR's Table 1 in its order, then RCMSTR and its masked branch alone. What a row leaves out is the
# default.
_PRESETS: dict[str, dict[str, Any]] = {
    "seqmoco_without_kl": {**_SUBWORD_ONLY, "consistency_weights": (0.0, 0.0, 0.0)},
    "seqmoco": _SUBWORD_ONLY,
    "reg": {**_SUBWORD_ONLY, "query_views": "both"},
    "hier": {"inter_consistency_weight": 0.0, "reconstruction_weight": 0.0},
    "rclstr": {"reconstruction_weight": 0.0},
    "rcmstr": {},
    "mim": {
        "contrastive_weights": (0.0, 0.0, 0.0),
        "consistency_weights": (0.0, 0.0, 0.0),
        "inter_consistency_weight": 0.0,
        "masked_batch_norm": "shared_buffers",
    },
}


@strict
class RCMSTRConfig(TextRecognitionConfig):
    """Configuration of an RCMSTR model. The defaults are the papers': TRBA's ResNet at 32x100, and CTC.

    The recogniser's fields are those of `TextRecognitionConfig`; its two LSTM layers belong to the head, as
    in the evaluation protocol of the papers (arXiv:2308.00508, Table 1). The fields below are those of
    pretraining; a recogniser ignores them. Queue length, momentum and learning rate belong to the run.

    Args:
        projector_layers: bidirectional LSTM layers between encoder and predictors; 0 or more.
        projector_size: hidden and output size of those layers.
        projection_dim: D, size of the unit vectors that are contrasted.
        num_subwords: sub-words of a word.
        blocks_per_image: strips that a word is cut into for rearrangement.
        images_per_group: neighbouring words of a batch that exchange strips.
        query_views: online queries of the intra-hierarchical terms: "plain" words, "rearranged" ones, "both",
            or "either": a coin for each level (the released code's `--permute_probability`). The
            inter-hierarchical terms always take plain words.
        joint_views: encode plain and rearranged words in one pass. Their batch-norm statistics are then
            common and the running ones move once a step; with False each view has its own pass and
            statistics, as in the released code. A ViT has no batch norm: the result is the same, and the
            masked words join the pass.
        rearrange_after_rectifier: rectify first, so that the seams stay where `restore` expects them. The
            papers rearrange first.
        contrastive_temperature: of InfoNCE.
        consistency_temperature: of the similarity distributions.
        kl_reduction: "batchmean" is the papers' formula; "mean" divides by the number of negatives as well,
            like the released code, which makes the consistency terms vanish next to the others.
        contrastive_weights: of InfoNCE at the levels frame, sub-word and word (the papers' lambda).
        consistency_weights: of the consistency at the same levels (alpha).
        inter_contrastive_weight: of InfoNCE between levels (gamma; the published command has 0).
        inter_consistency_weight: of the consistency between levels.
        inter_hierarchical_pairs: which levels interact: "frame_to_subword", "subword_to_word",
            "frame_to_word".
        reconstruction_weight: of the masked pixel loss; 0 leaves the masked branch out.
        mask_unit: side of a hidden square in pixels, a multiple of `patch_size`; None for `patch_size`.
        mask_ratio: share of the units that are hidden at random.
        mask_num_blocks: blocks that are hidden besides, as high as the word.
        mask_block_width: width of a block in units.
        normalize_targets: reconstruct each patch with mean 0 and variance 1 instead of its pixel values.
        masked_batch_norm: running statistics of the CNN in the masked pass, which always normalises with
            those of its own visible positions: "batch_no_update" leaves the running ones alone,
            "separate_buffers" keeps some for masked passes, "shared_buffers" moves the same as dense passes.
        decouple: the masked pass is one of its own, and contrast sees whole words. False contrasts the masked
            words themselves (the ablation); the same mask then also lies on the rearranged ones.
        reconstruction_size: channels inside the prediction head; None for 256 (cnn) or half of `hidden_size`
            (vit).

    Raises:
        StrictDataclassError: (of huggingface_hub) when a field or a combination is not usable; the message
            names the field and the remedy.
    """

    model_type = "rcmstr"

    # Projector and predictors
    projector_layers: int = 2
    projector_size: int = 256
    projection_dim: int = 128
    # Relational contrastive learning
    num_subwords: int = 4
    blocks_per_image: int = 2
    images_per_group: int = 2
    query_views: str = "both"
    joint_views: bool = True
    rearrange_after_rectifier: bool = False
    contrastive_temperature: float | int = 0.07
    consistency_temperature: float | int = 0.04
    kl_reduction: str = "batchmean"
    contrastive_weights: list[float | int] | tuple[float | int, ...] = (1.0, 1.0, 1.0)
    consistency_weights: list[float | int] | tuple[float | int, ...] = (0.3, 0.3, 0.3)
    inter_contrastive_weight: float | int = 0.0
    inter_consistency_weight: float | int = 0.3
    inter_hierarchical_pairs: list[str] | tuple[str, ...] = ("frame_to_subword", "subword_to_word")
    # Masked image modelling
    reconstruction_weight: float | int = 1.0
    mask_unit: int | None = None
    mask_ratio: float | int = 0.7
    mask_num_blocks: int = 1
    mask_block_width: int = 4
    normalize_targets: bool = True
    masked_batch_norm: str = "batch_no_update"
    decouple: bool = True
    reconstruction_size: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        """Settle the sizes that follow from others."""
        if self.mask_unit is None:
            self.mask_unit = self.patch_size
        if self.reconstruction_size is None:
            self.reconstruction_size = 256 if self.encoder_type == "cnn" else max(1, self.hidden_size // 2)
        super().__post_init__(**kwargs)

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Name the published rows and the pretraining fields that each sets.

        "seqmoco_without_kl", "seqmoco", "reg" (+ rearrangement), "hier" (+ hierarchy) and "rclstr"
        (+ interaction) are RCLSTR's Table 1; "rcmstr" is RCMSTR and "mim" its masked branch alone.
        """
        return {name: dict(fields) for name, fields in _PRESETS.items()}

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "RCMSTRConfig":
        """Make the configuration of a published row; `fields` add to it or replace what it sets.

        Raises:
            ValueError: for an unknown name.
        """
        if name not in _PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(_PRESETS)}.")
        return cls(**{**_PRESETS[name], **fields})

    @property
    def key_levels(self) -> tuple[str, ...]:
        """Levels that are contrasted with keys of their own; they need banks of negatives."""
        weights = zip(LEVELS, self.contrastive_weights, self.consistency_weights, strict=False)
        return tuple(level for level, contrastive, consistency in weights if contrastive or consistency)

    @property
    def inter_pairs(self) -> tuple[tuple[str, str], ...]:
        """(fine, coarse) levels that interact; none when both inter-hierarchical weights are 0."""
        if not (self.inter_contrastive_weight or self.inter_consistency_weight):
            return ()
        fine_and_coarse = (pair.split("_to_") for pair in self.inter_hierarchical_pairs)
        return tuple((fine, coarse) for fine, coarse in fine_and_coarse)

    @property
    def query_levels(self) -> tuple[str, ...]:
        """Levels that have a predictor."""
        used = {*self.key_levels, *(fine for fine, _ in self.inter_pairs)}
        return tuple(level for level in LEVELS if level in used)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss's terms by name, those of weight 0 left out.

        "<level>_contrastive", "<level>_consistency", "<fine>_to_<coarse>_contrastive",
        "<fine>_to_<coarse>_consistency", "reconstruction".
        """
        weights: dict[str, float] = {}
        for index, level in enumerate(LEVELS):
            weights[f"{level}_contrastive"] = self.contrastive_weights[index]
            weights[f"{level}_consistency"] = self.consistency_weights[index]
        for fine, coarse in self.inter_pairs:
            weights[f"{fine}_to_{coarse}_contrastive"] = self.inter_contrastive_weight
            weights[f"{fine}_to_{coarse}_consistency"] = self.inter_consistency_weight
        weights["reconstruction"] = self.reconstruction_weight
        return {name: weight for name, weight in weights.items() if weight}

    def validate_pretraining_choices(self) -> None:
        """Every named choice is one of the known names."""
        for field, known in (
            ("query_views", QUERY_VIEWS),
            ("kl_reduction", KL_REDUCTIONS),
            ("masked_batch_norm", MASKED_BATCH_NORMS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(known)}, got {getattr(self, field)!r}."
                )
        pairs = self.inter_hierarchical_pairs
        if len(set(pairs)) != len(pairs) or not set(pairs) <= set(INTER_HIERARCHICAL_PAIRS):
            raise ValueError(
                f"`inter_hierarchical_pairs` must name different ones of "
                f"{', '.join(INTER_HIERARCHICAL_PAIRS)}, got {pairs}."
            )

    def validate_pretraining_sizes(self) -> None:
        """Sizes and counts are positive."""
        for field in (
            "projector_size",
            "projection_dim",
            "num_subwords",
            "blocks_per_image",
            "images_per_group",
            "mask_block_width",
            "reconstruction_size",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be positive, got {getattr(self, field)}.")
        for field in ("projector_layers", "mask_num_blocks"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be 0 or more, got {getattr(self, field)}.")
        for field in ("contrastive_temperature", "consistency_temperature"):
            if getattr(self, field) <= 0:
                raise ValueError(f"`{field}` must be positive, got {getattr(self, field)}.")

    def validate_pretraining_weights(self) -> None:
        """Weights are not negative, and there is one for each level."""
        for field in ("contrastive_weights", "consistency_weights"):
            weights = getattr(self, field)
            if len(weights) != len(LEVELS) or min(weights) < 0:
                raise ValueError(
                    f"`{field}` must be {len(LEVELS)} numbers of 0 or more ({', '.join(LEVELS)}), "
                    f"got {weights}."
                )
        for field in ("inter_contrastive_weight", "inter_consistency_weight", "reconstruction_weight"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be 0 or more, got {getattr(self, field)}.")

    def validate_mask(self) -> None:
        """The mask hides something and lies on whole patches."""
        assert self.mask_unit is not None
        if self.mask_unit < 1 or self.mask_unit % self.patch_size or self.image_size[0] % self.mask_unit:
            raise ValueError(
                f"`mask_unit` must be a multiple of `patch_size` {self.patch_size} that divides the image "
                f"height {self.image_size[0]}, got {self.mask_unit}."
            )
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` must lie in 0..1 (1 excluded), got {self.mask_ratio}.")
        if self.reconstruction_weight and not self.mask_ratio and not self.mask_num_blocks:
            raise ValueError(
                "nothing is hidden: set `mask_ratio` or `mask_num_blocks`, or leave the masked branch out "
                "with `reconstruction_weight=0`."
            )

    def validate_relations(self) -> None:
        """Every coarse level of an interaction is trained itself."""
        for fine, coarse in self.inter_pairs:
            if coarse not in self.key_levels:
                raise ValueError(
                    f"the interaction {fine}_to_{coarse} needs keys of the {coarse} level, whose predictor "
                    f"nothing would train: give the {coarse} a weight in `contrastive_weights`, or leave the "
                    "pair out of `inter_hierarchical_pairs`."
                )

    def validate_masked_statistics(self) -> None:
        """Some pass fills the running statistics that a CNN reads with, and a coupled branch exists."""
        if not self.decouple and not (self.reconstruction_weight and self.query_levels):
            raise ValueError(
                "`decouple=False` lets contrast see masked words, so both branches must be on: set "
                "`reconstruction_weight` and the contrastive weights, or `decouple=True`."
            )
        only_masked = self.reconstruction_weight and (not self.decouple or not self.query_levels)
        if self.encoder_type == "cnn" and only_masked and self.masked_batch_norm != "shared_buffers":
            raise ValueError(
                "every pass of this configuration is masked, so only `masked_batch_norm='shared_buffers'` "
                f"fills the running statistics that a recogniser needs; got {self.masked_batch_norm!r}."
            )
