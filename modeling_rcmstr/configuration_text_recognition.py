"""The fields that every word recogniser of this package shares: input, rectifier, encoder, head, vocabulary.

`RCMSTRConfig` and `PerSecConfig` inherit from `TextRecognitionConfig` and add what their pretraining needs.
Run settings (learning rate, batch size, queue length) are not here: they belong to the YAML file of a run.
"""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

ENCODER_TYPES = ("cnn", "vit")
# Each CNN with the sizes that it was published with; their lengths are its own too.
CNN_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "trba": {
        "embedding_sizes": (32, 64),
        "hidden_sizes": (128, 256, 512, 512),
        "depths": (1, 2, 5, 3),
    },
    "resnet45": {
        "embedding_sizes": (32,),
        "hidden_sizes": (32, 64, 128, 256, 512),
        "depths": (3, 4, 6, 6, 3),
    },
}
DECODER_TYPES = ("ctc", "attention")
RECTIFIER_TYPES = ("none", "tps")
RECTIFIER_INITIALIZATIONS = ("identity", "curved")
POSITION_EMBEDDING_TYPES = ("sincos", "learned")
DECODER_INPUTS = ("columns", "tokens")

# What the library and its tools write into config.json, or read from it, without declaring a field.
LIBRARY_KEYS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "configuration_files",
        "custom_pipelines",
        "experts_implementation",
        "feature_extractor_type",
        "fusion_config",
        "image_processor_type",
        "per_layer_config",
        "processor_class",
        "quantization_config",
        "tie_word_embeddings",
        "tokenizer_class",
        "transformers.js_config",
        "transformers_weights",
    }
)


@strict
class TextRecognitionConfig(PreTrainedConfig):
    """Configuration of a word recogniser; the defaults are TRBA's full-width ResNet with a CTC head.

    Args:
        image_size: nominal (height, width) in pixels. The height is binding and must be 32 for TRBA's CNN;
            the width only says what the image processor stretches to when it does not keep the aspect ratio.
        num_channels: colour channels of `pixel_values`.
        rectifier_type: "none" or "tps" (thin-plate spline; needs words of one width).
        num_fiducial_points: control points of the spline; even.
        rectifier_initialization: "identity", or "curved" for the start of RARE (arXiv:1603.03915, Fig. 6a).
        encoder_type: "cnn" (a ResNet) or "vit".
        cnn_type: "trba" (one row of W/4 + 1 frames) or "resnet45" (ABINet's: H/4 rows of W/4 positions, the
            grid of 4x4 units itself).
        embedding_sizes: output channels of the CNN's stem convolutions, two in trba and one in resnet45; None
            for the published ones. The two that follow likewise.
        hidden_sizes: output channels of the CNN's stages, four in trba and five in resnet45.
        depths: residual blocks of the same stages.
        patch_size: side of a ViT patch in pixels.
        hidden_size: width of the ViT.
        num_hidden_layers: transformer layers of the ViT.
        num_attention_heads: heads of the ViT; must divide `hidden_size`.
        intermediate_size: width of the ViT's MLP.
        hidden_act: activation of the ViT's MLP.
        layer_norm_eps: epsilon of the ViT's layer norms.
        qkv_bias: whether the ViT's projections have a bias.
        hidden_dropout_prob: dropout after attention and MLP of the ViT.
        attention_probs_dropout_prob: dropout on the ViT's attention weights.
        position_embedding_type: "sincos" (fixed, 2-D) or "learned" (a row table plus a column table).
        max_position_columns: columns of the learned table; columns beyond it use the last one.
        encoder_bilstm_layers: bidirectional LSTM layers that count as part of the encoder (PerSec).
        encoder_bilstm_size: hidden and output size of those layers.
        decoder_type: "ctc" or "attention".
        head_bilstm_layers: bidirectional LSTM layers of the head.
        head_hidden_size: hidden size of the head.
        head_feature_gate: the attention head attends over encoder and LSTM features side by side, each
            multiplied by a linear map of both (SCATTER); otherwise over the LSTM features alone. Without LSTM
            layers, the encoder features alone are gated.
        decoder_input: "columns" (mean over the rows of the feature map) or "tokens" (every cell, attention
            head only).
        max_text_length: longest label in characters that the attention head is meant for.
        vocab_size: classes, special ones included.
        pad_token_id: padding, and the CTC blank.
        bos_token_id: start of text (attention head).
        eos_token_id: end of text (attention head).
        decoder_start_token_id: what the attention head reads first, in training and at test.

    Raises:
        ValueError: for a field that does not exist; the message lists those with like names.
        StrictDataclassError: when a field or a combination is not usable; the message names the field and the
            remedy.
    """

    model_type = "text_recognition"
    # A Trainer that gathers predictions leaves these out: their shapes differ from batch to batch.
    keys_to_ignore_at_inference = [
        "past_key_values",
        "frame_mask",
        "hidden_states",
        "attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
    ]

    # Input
    image_size: list[int] | tuple[int, ...] = (32, 100)
    num_channels: int = 3
    # Rectifier
    rectifier_type: str = "none"
    num_fiducial_points: int = 20
    rectifier_initialization: str = "identity"
    # CNN encoder
    encoder_type: str = "cnn"
    cnn_type: str = "trba"
    embedding_sizes: list[int] | tuple[int, ...] | None = None
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    depths: list[int] | tuple[int, ...] | None = None
    # ViT encoder
    patch_size: int = 4
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    position_embedding_type: str = "sincos"
    max_position_columns: int = 128
    # Recurrent part of the encoder
    encoder_bilstm_layers: int = 0
    encoder_bilstm_size: int = 256
    # Head
    decoder_type: str = "ctc"
    head_bilstm_layers: int = 2
    head_hidden_size: int = 256
    head_feature_gate: bool = True
    decoder_input: str = "columns"
    max_text_length: int = 25
    # Vocabulary
    vocab_size: int = 95
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        """Refuse unknown fields and derive what depends on the CNN and on the decoder type."""
        _refuse_unknown_fields(type(self), kwargs)
        for name, sizes in CNN_SIZES.get(self.cnn_type, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, sizes)
        self.is_encoder_decoder = self.decoder_type == "attention"
        if self.is_encoder_decoder:
            self.bos_token_id = 1 if self.bos_token_id is None else self.bos_token_id
            self.eos_token_id = 2 if self.eos_token_id is None else self.eos_token_id
            if self.decoder_start_token_id is None:
                self.decoder_start_token_id = self.bos_token_id
        # `from_config` of an auto class that knows several models iterates over these names.
        self.architectures = [] if self.architectures is None else self.architectures
        # A published folder names its pipeline for readers without this package. With the package installed
        # the task is registered already, and the entry would make `pipeline()` ask for `trust_remote_code`.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary; keyword arguments that are fields replace its entries.

        They do so before anything is checked or derived, so that `from_pretrained(folder,
        decoder_type="attention")` gives the same configuration as the constructor.
        """
        own = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        changes = {name: kwargs.pop(name) for name in own & set(kwargs)}
        return super().from_dict({**config_dict, **changes}, **kwargs)

    @property
    def has_centered_frames(self) -> bool:
        """Whether frames stand on pixels 0, 4, … to the width, W/4 + 1 of them, or tile the word."""
        return self.encoder_type == "cnn" and self.cnn_type == "trba"

    def validate_choices(self) -> None:
        """Every named choice is one of the known names."""
        for field, known in (
            ("encoder_type", ENCODER_TYPES),
            ("cnn_type", tuple(CNN_SIZES)),
            ("decoder_type", DECODER_TYPES),
            ("rectifier_type", RECTIFIER_TYPES),
            ("rectifier_initialization", RECTIFIER_INITIALIZATIONS),
            ("position_embedding_type", POSITION_EMBEDDING_TYPES),
            ("decoder_input", DECODER_INPUTS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"`{field}` must be one of {', '.join(known)}, got {value!r}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"`hidden_act` must be one of {', '.join(sorted(ACT2FN))}, got {self.hidden_act!r}."
            )

    def validate_image_size(self) -> None:
        """Height and width suit the encoder."""
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be (height, width) in pixels, got {self.image_size}.")
        height, width = self.image_size
        if self.encoder_type == "cnn" and self.cnn_type == "trba" and height != 32:
            raise ValueError(
                f"the trba cnn encoder reduces a height of 32 to one row, got height {height}; use 32."
            )
        if self.encoder_type == "cnn" and self.patch_size != 4:
            raise ValueError(f"the cnn encoder has stride 4, got `patch_size` {self.patch_size}; use 4.")
        if self.patch_size < 1 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"`image_size` {height}x{width} must be a multiple of `patch_size` {self.patch_size}."
            )

    def validate_sizes(self) -> None:
        """Layer tables have their lengths, and sizes are positive."""
        for field, published in CNN_SIZES[self.cnn_type].items():
            values, length = getattr(self, field), len(published)
            if len(values) != length or min(values) < 1:
                raise ValueError(
                    f"`{field}` must be {length} positive number{'s' * (length > 1)} with "
                    f"`cnn_type={self.cnn_type!r}`, like the published {published}, got {values}."
                )
        for field in (
            "num_channels",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_columns",
            "encoder_bilstm_size",
            "head_hidden_size",
            "max_text_length",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be positive, got {getattr(self, field)}.")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 0 and below 1, got {getattr(self, field)}.")
        for field in ("encoder_bilstm_layers", "head_bilstm_layers"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be 0 or more, got {getattr(self, field)}.")
        if self.num_fiducial_points < 4 or self.num_fiducial_points % 2:
            raise ValueError(
                f"`num_fiducial_points` must be even and at least 4, got {self.num_fiducial_points}."
            )

    def validate_attention_heads(self) -> None:
        """Heads divide the width; sine-cosine positions need a width divisible by 4."""
        if self.encoder_type != "vit":
            return
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be divisible by "
                f"`num_attention_heads` {self.num_attention_heads}."
            )
        if self.position_embedding_type == "sincos" and self.hidden_size % 4:
            raise ValueError(f"sincos positions need `hidden_size` divisible by 4, got {self.hidden_size}.")

    def validate_vocabulary(self) -> None:
        """Special ids lie inside the vocabulary and differ."""
        if self.vocab_size < 2:
            raise ValueError(
                f"`vocab_size` must be at least 2 (padding and one character), got {self.vocab_size}."
            )
        if self.pad_token_id != 0:
            raise ValueError(f"`pad_token_id` must be 0 (it is the CTC blank), got {self.pad_token_id}.")
        if self.decoder_type != "attention":
            return
        ids = (self.pad_token_id, self.bos_token_id, self.eos_token_id)
        if len(set(ids)) != 3 or not all(i is not None and 0 <= i < self.vocab_size for i in ids):
            raise ValueError(
                f"padding, start and end ids must differ and lie in 0..{self.vocab_size - 1}, got {ids}; "
                "build the tokenizer with its attention special tokens and pass its ids."
            )
        if self.decoder_start_token_id is None or not 0 <= self.decoder_start_token_id < self.vocab_size:
            raise ValueError(
                f"`decoder_start_token_id` must lie in 0..{self.vocab_size - 1}, "
                f"got {self.decoder_start_token_id}; use `bos_token_id`, {self.bos_token_id}."
            )

    def validate_decoder_input(self) -> None:
        """Recurrent layers and CTC read columns."""
        if self.decoder_input == "tokens" and (self.decoder_type == "ctc" or self.head_bilstm_layers):
            raise ValueError(
                "`decoder_input='tokens'` is for the attention head without LSTM layers: "
                "set `decoder_type='attention'` and `head_bilstm_layers=0`, or use 'columns'."
            )
        if self.decoder_input == "tokens" and self.encoder_bilstm_layers:
            raise ValueError(
                "`decoder_input='tokens'` needs `encoder_bilstm_layers=0`: an LSTM leaves one row."
            )


def _refuse_unknown_fields(config_class: type[PreTrainedConfig], names: Iterable[str]) -> None:
    """Refuse names that neither the configuration nor the library knows.

    The library itself keeps unknown names silently, so a misspelt field would leave its default in force.

    Raises:
        ValueError: naming the unknown fields, the fields with like names, and all fields.
    """
    unknown = [name for name in names if not (name.startswith("_") or name in LIBRARY_KEYS)]
    # Attributes that the library derives (`num_labels`, `output_attentions`, …), and `model_type`.
    unknown = [
        name for name in unknown if not isinstance(getattr(PreTrainedConfig, name, None), str | property)
    ]
    if unknown:
        generation = GenerationConfig().to_dict()  # the library drops these from configurations
        unknown = [name for name in unknown if name not in generation]
    if not unknown:
        return
    known = sorted({field.name for field in fields(config_class)})
    clauses = []
    for name in unknown:
        near = " or ".join(f"`{other}`" for other in get_close_matches(name, known, n=3))
        clauses.append(f"`{name}`" + (f" (did you mean {near}?)" if near else ""))
    raise ValueError(
        f"{config_class.__name__} has no field {', '.join(clauses)}; correct the name or remove it. "
        f"Its fields: {', '.join(known)}."
    )
