"""Configuration of PerSec (AAAI 2022, doi:10.1609/aaai.v36i2.20062), its pretraining included.

The paper's text leaves much open. Whatever it does not settle is a field here, with a default that is either
the paper's, wav2vec 2.0's (arXiv:2006.11477), whose recipe PerSec moves to images, or ours. The Gumbel
temperature's schedule and whether words keep their aspect ratio are no fields: they belong to a run and to
the image processor.
"""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_text_recognition import TextRecognitionConfig

PERCEIVER_LEVELS = ("stroke", "semantic")
# Each 2-D map of a CNN, the stem's first: pixels per row and per column.
CNN_TAP_STRIDES = {
    "trba": ((1, 1), (2, 2), (4, 4), (8, 4)),
    "resnet45": ((1, 1), (2, 2), (2, 2), (4, 4), (4, 4), (4, 4)),
}
NAMED_STROKE_WINDOWS = ("half", "half_stripe", "half_line")
SEMANTIC_TAPS = ("output", "before_bilstm")
SEMANTIC_POOLS = ("mean", "none")
NEGATIVES_SCOPES = ("image", "masked", "batch")
DIVERSITY_SCOPES = ("masked", "all")


@dataclass(frozen=True)
class PerceiverLossWeights:
    """What each term of the total loss is multiplied by.

    L = a_h Lc_h + a_l Lc_l + b_h Ld_h + b_l Ld_l + e_h mean(f_h²) + e_l mean(f_l²), h for the semantic, l for
    the stroke level.
    """

    semantic_contrastive: float
    stroke_contrastive: float
    semantic_diversity: float
    stroke_diversity: float
    semantic_penalty: float = 0.0
    stroke_penalty: float = 0.0


# Readings of the paper's Eqn (4), of which alpha = 0.2 and beta = 0.1 are published and the formula is not.
LOSS_PRESETS = {
    # alpha weights the stroke level, beta the diversity, as in wav2vec 2.0
    "A": PerceiverLossWeights(1.0, 0.2, 0.1, 0.1),
    # the same with the stroke level's diversity inside alpha's bracket
    "A_prime": PerceiverLossWeights(1.0, 0.2, 0.1, 0.02),
    # alpha weights the diversity, beta fairseq's penalty on the features
    "B": PerceiverLossWeights(1.0, 1.0, 0.2, 0.2, 0.1, 0.1),
    # alpha and beta weight the two levels' diversities
    "C": PerceiverLossWeights(1.0, 1.0, 0.1, 0.2),
}

# The rows of a study: the readings of the loss, each level alone, and targets that are not quantised.
_PRESETS: dict[str, dict[str, Any]] = {
    **{name: {"loss_preset": name} for name in LOSS_PRESETS},
    "stroke_only": {
        "semantic_contrastive_weight": 0,
        "semantic_diversity_weight": 0,
        "semantic_penalty_weight": 0,
    },
    "semantic_only": {
        "stroke_contrastive_weight": 0,
        "stroke_diversity_weight": 0,
        "stroke_penalty_weight": 0,
    },
    "without_quantizer": {"quantize_targets": False},
}


@dataclass(frozen=True)
class PerceiverLevel:
    """What `PerSecConfig` says of one level; `window` is (rows, columns), columns None for all."""

    window: tuple[int, int | None]
    mask_ratio: float
    mask_span: tuple[int, int]
    grad_scale: float


@strict
class PerSecConfig(TextRecognitionConfig):
    """Configuration of a PerSec model; the defaults are TRBA's ResNet with two LSTM layers in the encoder.

    The fields of `TextRecognitionConfig`, and those of pretraining below. Unlike RCMSTR, the recurrent layers
    are pretrained and therefore part of the encoder, and the heads read its frames directly.

    Args:
        encoder_bilstm_layers: LSTM layers of the encoder; None means 2 for the CNN and 0 for the ViT.
        loss_preset: which reading of the total loss gives the six weights: "A", "A_prime", "B" or "C"
            (`LOSS_PRESETS`).
        semantic_contrastive_weight: weight of that term; None for the preset's. The five that follow
            likewise.
        stroke_contrastive_weight: see above.
        semantic_diversity_weight: see above.
        stroke_diversity_weight: see above.
        semantic_penalty_weight: see above; of the mean square of the tapped feature.
        stroke_penalty_weight: see above.
        stroke_tap: which of the encoder's `hidden_states` the stroke perceiver reads; None means the CNN's
            first one of stride 4 (stage 2 of trba, 3 of resnet45: 8 rows) or the output of the ViT's layer at
            a quarter of its depth.
        semantic_tap: what the semantic perceiver reads: "output" of the encoder, or the map "before_bilstm",
            with which pretraining leaves the LSTM layers as they are.
        semantic_pool: "mean" over the rows of the map gives a sequence; "none" keeps a 2-D map (of the ViT or
            resnet45).
        stroke_grad_scale: factor on every gradient from the stroke perceiver into the encoder.
        semantic_grad_scale: the same for the semantic perceiver.
        stroke_window: side of the square window in positions, (rows, columns), or a name: "half" (a square of
            half the map's height), "half_stripe" (half the height, full width), "half_line" (one row, half
            the height long).
        semantic_window: columns of the window, or (rows, columns).
        relative_position_bias: learn a bias per relative position inside a window.
        aggregator_layers: transformer layers of a perceiver.
        aggregator_shift: let every second layer's windows start half a window earlier.
        aggregator_dropout: dropout after attention and MLP of a perceiver.
        feature_dropout: dropout on the normalised feature, drawn apart for context and target.
        perceiver_hidden_size: width of a perceiver.
        perceiver_attention_heads: heads of a perceiver; must divide its width.
        stroke_mask_ratio: share of the stroke positions that are masked.
        semantic_mask_ratio: share of the semantic positions that are masked.
        stroke_mask_size: side of the square that a mask start covers.
        semantic_mask_size: length of the run that a mask start covers.
        min_masked_positions: fewest mask starts per word, as far as it has positions.
        quantize_targets: whether targets are quantised; otherwise they are a linear map of the feature.
        num_codebooks: codebooks of a quantiser.
        codebook_size: entries of each codebook.
        codevector_size: channels of the chosen entries side by side; divisible by `num_codebooks`.
        num_negatives: distractors per masked position, at most.
        negatives_scope: where they are drawn: "image", "masked" or "batch" (see `perceiver_losses`).
        contrastive_temperature: divides the cosines.
        diversity_scope: positions that the codebook statistics are taken over, "masked" or "all".

    Raises:
        StrictDataclassError: (of huggingface_hub) when a field or a combination is not usable; the message
            names the field and the remedy.
    """

    model_type = "persec"

    image_size: list[int] | tuple[int, ...] = (32, 128)
    position_embedding_type: str = "learned"
    encoder_bilstm_layers: int | None = None  # type: ignore[assignment]  # a number once constructed
    head_bilstm_layers: int = 0
    head_feature_gate: bool = False
    # Total loss
    loss_preset: str = "A"
    semantic_contrastive_weight: float | int | None = None
    stroke_contrastive_weight: float | int | None = None
    semantic_diversity_weight: float | int | None = None
    stroke_diversity_weight: float | int | None = None
    semantic_penalty_weight: float | int | None = None
    stroke_penalty_weight: float | int | None = None
    # What the perceivers read
    stroke_tap: int | None = None
    semantic_tap: str = "output"
    semantic_pool: str = "mean"
    stroke_grad_scale: float | int = 0.2
    semantic_grad_scale: float | int = 1.0
    # Context aggregator
    stroke_window: int | str | list[int] | tuple[int, ...] = "half"
    semantic_window: int | list[int] | tuple[int, ...] = 10
    relative_position_bias: bool = True
    aggregator_layers: int = 1
    aggregator_shift: bool = False
    aggregator_dropout: float | int = 0.0
    feature_dropout: float | int = 0.0
    perceiver_hidden_size: int = 128
    perceiver_attention_heads: int = 8
    # Masking
    stroke_mask_ratio: float | int = 0.2
    semantic_mask_ratio: float | int = 0.15
    stroke_mask_size: int = 1
    semantic_mask_size: int = 1
    min_masked_positions: int = 2
    # Quantiser
    quantize_targets: bool = True
    num_codebooks: int = 2
    codebook_size: int = 256
    codevector_size: int = 128
    # Losses
    num_negatives: int = 100
    negatives_scope: str = "image"
    contrastive_temperature: float | int = 0.1
    diversity_scope: str = "masked"

    def __post_init__(self, **kwargs: object) -> None:
        """Derive what depends on the encoder."""
        if self.encoder_bilstm_layers is None:
            self.encoder_bilstm_layers = 2 if self.encoder_type == "cnn" else 0
        super().__post_init__(**kwargs)

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Name the rows of a study and the pretraining fields that each sets.

        "A" (the default), "A_prime", "B" and "C" are readings of the total loss; "stroke_only" and
        "semantic_only" switch the other level off; "without_quantizer" contrasts with linear maps of the
        features.
        """
        return {name: dict(fields) for name, fields in _PRESETS.items()}

    @property
    def loss_weights(self) -> PerceiverLossWeights:
        """The six weights: the preset's, where a field of its own says nothing else."""
        preset = LOSS_PRESETS[self.loss_preset]

        def choose(own: float | None, of_preset: float) -> float:
            return of_preset if own is None else own

        return PerceiverLossWeights(
            semantic_contrastive=choose(self.semantic_contrastive_weight, preset.semantic_contrastive),
            stroke_contrastive=choose(self.stroke_contrastive_weight, preset.stroke_contrastive),
            semantic_diversity=choose(self.semantic_diversity_weight, preset.semantic_diversity),
            stroke_diversity=choose(self.stroke_diversity_weight, preset.stroke_diversity),
            semantic_penalty=choose(self.semantic_penalty_weight, preset.semantic_penalty),
            stroke_penalty=choose(self.stroke_penalty_weight, preset.stroke_penalty),
        )

    @property
    def stroke_tap_index(self) -> int:
        """Which of the encoder's `hidden_states` the stroke perceiver reads."""
        if self.stroke_tap is not None:
            return self.stroke_tap
        if self.encoder_type == "cnn":
            return CNN_TAP_STRIDES[self.cnn_type].index((4, 4))
        return max(1, self.num_hidden_layers // 4)

    @property
    def stroke_tap_rows(self) -> int:
        """Rows of that map."""
        return self.image_size[0] // self._stroke_tap_strides[0]

    @property
    def stroke_tap_stride(self) -> int:
        """Pixels per column of that map."""
        return self._stroke_tap_strides[1]

    @property
    def _stroke_tap_strides(self) -> tuple[int, int]:
        if self.encoder_type == "cnn":
            return CNN_TAP_STRIDES[self.cnn_type][self.stroke_tap_index]
        return self.patch_size, self.patch_size

    @property
    def stroke_level(self) -> PerceiverLevel:
        """The stroke perceiver's numbers."""
        window = self.stroke_window
        half = self.stroke_tap_rows // 2
        named: dict[str, tuple[int, int | None]] = {
            "half": (half, half),
            "half_stripe": (half, None),
            "half_line": (1, half),
        }
        if isinstance(window, str):
            size = named[window]
        else:
            size = (window, window) if isinstance(window, int) else (window[0], window[1])
        span = (self.stroke_mask_size, self.stroke_mask_size)
        return PerceiverLevel(size, self.stroke_mask_ratio, span, self.stroke_grad_scale)

    @property
    def semantic_level(self) -> PerceiverLevel:
        """The semantic perceiver's numbers."""
        window = self.semantic_window
        size = (1, window) if isinstance(window, int) else (window[0], window[1])
        span = (1, self.semantic_mask_size)
        return PerceiverLevel(size, self.semantic_mask_ratio, span, self.semantic_grad_scale)

    def validate_perceiver_choices(self) -> None:
        """Every named choice of pretraining is one of the known names."""
        for field, known in (
            ("loss_preset", tuple(LOSS_PRESETS)),
            ("semantic_tap", SEMANTIC_TAPS),
            ("semantic_pool", SEMANTIC_POOLS),
            ("negatives_scope", NEGATIVES_SCOPES),
            ("diversity_scope", DIVERSITY_SCOPES),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"`{field}` must be one of {', '.join(known)}, got {value!r}.")

    def validate_perceiver_numbers(self) -> None:
        """Sizes are positive, shares are shares, weights are not negative."""
        for field in (
            "aggregator_layers",
            "perceiver_hidden_size",
            "perceiver_attention_heads",
            "stroke_mask_size",
            "semantic_mask_size",
            "min_masked_positions",
            "num_codebooks",
            "codebook_size",
            "codevector_size",
            "num_negatives",
            "contrastive_temperature",
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"`{field}` must be positive, got {getattr(self, field)}.")
        for field in ("stroke_mask_ratio", "semantic_mask_ratio"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(
                    f"`{field}` is a share and must lie above 0 and at most at 1, got {getattr(self, field)}."
                )
        for field in ("aggregator_dropout", "feature_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 0 and below 1, got {getattr(self, field)}.")
        for field in ("stroke_grad_scale", "semantic_grad_scale"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be 0 or more, got {getattr(self, field)}.")

    def validate_loss_weights(self) -> None:
        """Weights of the total loss are absent or not negative."""
        for level in PERCEIVER_LEVELS:
            for term in ("contrastive", "diversity", "penalty"):
                weight = getattr(self, f"{level}_{term}_weight")
                if weight is not None and weight < 0:
                    raise ValueError(
                        f"`{level}_{term}_weight` must be 0 or more, or None for the preset's, got {weight}."
                    )

    def validate_perceiver_sizes(self) -> None:
        """Heads divide the width and codebooks the codevector; shifting needs a second layer."""
        if self.perceiver_hidden_size % self.perceiver_attention_heads:
            raise ValueError(
                f"`perceiver_hidden_size` {self.perceiver_hidden_size} must be divisible by "
                f"`perceiver_attention_heads` {self.perceiver_attention_heads}; the paper uses 128 and 8."
            )
        if self.codevector_size % self.num_codebooks:
            raise ValueError(
                f"`codevector_size` {self.codevector_size} must be divisible by "
                f"`num_codebooks` {self.num_codebooks}."
            )
        if self.aggregator_shift and self.aggregator_layers < 2:
            raise ValueError(
                "`aggregator_shift` moves every second layer: set `aggregator_layers` to 2 or more."
            )

    def validate_taps(self) -> None:
        """The tapped maps exist, and what is left out is there to be left out."""
        last = self.num_hidden_layers
        if self.encoder_type == "cnn":
            last = len(CNN_TAP_STRIDES[self.cnn_type]) - 1
        if self.stroke_tap is not None and not 0 <= self.stroke_tap <= last:
            raise ValueError(
                f"`stroke_tap` must name a 2-D map of this {self.encoder_type} encoder, 0..{last}, "
                f"got {self.stroke_tap}."
            )
        if self.semantic_tap == "before_bilstm" and not self.encoder_bilstm_layers:
            raise ValueError(
                "`semantic_tap='before_bilstm'` needs `encoder_bilstm_layers` of 1 or more; use 'output'."
            )
        if self.semantic_pool == "none" and self.encoder_type == "cnn" and self.cnn_type == "trba":
            raise ValueError(
                "`semantic_pool='none'` keeps a ViT's 2-D tokens or resnet45's map, the map of the trba cnn "
                "has one row; use 'mean'."
            )
        if self.semantic_pool == "none" and self.semantic_tap == "output" and self.encoder_bilstm_layers:
            raise ValueError(
                "`semantic_pool='none'` needs 2-D tokens, LSTM layers leave one row: "
                "set `encoder_bilstm_layers=0` or `semantic_tap='before_bilstm'`."
            )

    def validate_windows(self) -> None:
        """Windows have an extent; a named stroke window needs an even number of rows."""
        for field in ("stroke_window", "semantic_window"):
            window = getattr(self, field)
            if isinstance(window, str):
                if window not in NAMED_STROKE_WINDOWS:
                    raise ValueError(
                        f"`{field}` must be a size, a pair or one of {', '.join(NAMED_STROKE_WINDOWS)}, "
                        f"got {window!r}."
                    )
                if self.stroke_tap_rows < 2 or self.stroke_tap_rows % 2:
                    raise ValueError(
                        f"`{field}={window!r}` needs an even number of rows to halve, the tapped map has "
                        f"{self.stroke_tap_rows}; give (rows, columns) instead."
                    )
                continue
            sizes = [window] if isinstance(window, int) else window
            if (
                len(sizes) > 2
                or (len(sizes) == 1 and not isinstance(window, int))
                or not sizes
                or min(sizes) < 1
            ):
                raise ValueError(
                    f"`{field}` must be a positive size or a pair (rows, columns), got {window!r}."
                )
