"""A vision transformer on the rectangular patch grid of a word; same contract as `encoder_cnn`.

Positions are absolute in rows and columns and tied to no width: fixed sine-cosine pairs (as in DiG,
arXiv:2207.00193), or a learned row table plus a learned column table (PerSec). Padded columns are excluded as
keys; hidden units are replaced by a mask token before positions are added (SimMIM, arXiv:2111.09886), so the
same network serves both passes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_text_recognition import TextRecognitionConfig
from .encoder_cnn import EncoderOutput, pixel_activity, valid_columns


def sincos_positions(rows: int, columns: int, hidden_size: int, device: torch.device) -> Tensor:
    """Fixed 2-D positions: half of the channels tell the row, half the column (MAE, arXiv:2111.06377).

    Returns:
        (rows · columns, hidden_size), row by row; sines first, then cosines, in each half.
    """
    quarter = hidden_size // 4
    frequency = torch.exp(torch.arange(quarter, device=device) * (-math.log(10000.0) / quarter))
    row = torch.arange(rows, device=device)[:, None] * frequency  # (rows, quarter)
    column = torch.arange(columns, device=device)[:, None] * frequency  # (columns, quarter)
    row = torch.cat([row.sin(), row.cos()], dim=1)[:, None].expand(-1, columns, -1)
    column = torch.cat([column.sin(), column.cos()], dim=1)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).reshape(rows * columns, hidden_size)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """Softmax attention written out; returns (B, N, heads, C/heads) and the weights (B, heads, N, N)."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ViTAttention(nn.Module):
    """Multi-head self-attention through the library's attention interface."""

    is_causal = False

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build the joint query-key-value map and the output map."""
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Attend over (B, N, C) tokens; the mask is additive (B, 1, N, N) or None."""
        batch, length, channels = hidden_states.shape
        heads = self.query_key_value(hidden_states).reshape(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, N, C/heads)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, is_causal=False
        )
        return self.projection(context.reshape(batch, length, channels)), weights


class ViTLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build attention, MLP and their norms."""
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ViTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (B, N, C) and the attention weights, where the implementation gives them."""
        attended, weights = self.attention(self.layernorm_before(hidden_states), attention_mask)
        hidden_states = hidden_states + self.dropout(attended)
        expanded = self.activation(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.dropout(self.output(expanded)), weights


class ViTEncoder(nn.Module):
    """Vision transformer for words: no class token, a rectangular grid, any width."""

    def __init__(self, config: TextRecognitionConfig, use_mask_token: bool = False) -> None:
        """Build; `use_mask_token` adds the token that stands for hidden units in masked image modelling."""
        super().__init__()
        self.config = config
        self.out_channels = config.hidden_size
        self.stride = (config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.row_embedding = self.column_embedding = None
        if config.position_embedding_type == "learned":
            rows = config.image_size[0] // config.patch_size
            self.row_embedding = nn.Embedding(rows, config.hidden_size)
            self.column_embedding = nn.Embedding(config.max_position_columns, config.hidden_size)
        self.layers = nn.ModuleList(ViTLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        pixel_values: Tensor,
        visible: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        output_attentions: bool = False,
        update_statistics: bool = True,  # noqa: ARG002
    ) -> EncoderOutput:
        """Encode words.

        Args:
            pixel_values: (B, C, H, W); H as in the configuration, W a multiple of the patch size.
            visible: (B, 1, h, w) True where a unit may be seen; None for all. Needs `use_mask_token`.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            output_attentions: return the weights of each layer (attention implementation "eager").
            update_statistics: accepted for the contract's sake; a ViT has no running statistics.

        Returns:
            A (B, C, h, w) map, normalised; `hidden_states` holds the embedding's map and that of each layer.

        Raises:
            ValueError: for a wrong height or width, masks that do not fit, or a mask without a mask token.
        """
        batch, _, height, width = pixel_values.shape
        if height != self.config.image_size[0]:
            raise ValueError(
                f"this vit reads words {self.config.image_size[0]} pixels high, got {height}; resize them."
            )
        size = (batch, height, width)
        columns = valid_columns(pixel_mask, self.config.patch_size, size)
        active = pixel_activity(visible, columns, size, self.config.patch_size)
        if active is not None:
            # Not a product: whatever stands in a hidden place, also infinity, must have no influence.
            pixel_values = pixel_values.masked_fill(~active, 0.0)
        patches = self.patch_embedding(pixel_values)  # (B, C, h, w)
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)  # (B, h·w, C)
        if visible is not None:
            if self.mask_token is None:
                raise ValueError(
                    "`visible` needs a mask token: build the encoder with `use_mask_token=True`."
                )
            hidden = ~visible.bool().flatten(1)[..., None]  # (B, h·w, 1)
            tokens = torch.where(hidden, self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self._positions(grid[0], grid[1], tokens.device).to(tokens.dtype)
        frame_mask = attention_mask = None
        if columns is not None:
            frame_mask = torch.arange(grid[1], device=tokens.device) < columns[:, None]  # (B, w)
            attention_mask = self._attention_mask(frame_mask, grid[0], tokens.dtype)
        hidden_states, attentions = [tokens], []
        for layer in self.layers:
            tokens, weights = layer(tokens, attention_mask)
            hidden_states.append(tokens)
            if output_attentions and weights is not None:
                attentions.append(weights)
        hidden_states[-1] = tokens = self.layernorm(tokens)
        maps = tuple(states.transpose(1, 2).reshape(batch, -1, *grid) for states in hidden_states)
        return EncoderOutput(maps[-1], frame_mask, maps, tuple(attentions) or None)

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        if self.row_embedding is None or self.column_embedding is None:
            return sincos_positions(rows, columns, self.config.hidden_size, device)
        row = self.row_embedding(torch.arange(rows, device=device))
        # Beyond the table the last column is used again: a word's positions must not depend on its batch's
        # width.
        index = torch.arange(columns, device=device).clamp(max=self.config.max_position_columns - 1)
        return (row[:, None] + self.column_embedding(index)[None]).flatten(0, 1)  # (h·w, C)

    @staticmethod
    def _attention_mask(frame_mask: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        keys = frame_mask[:, None].expand(-1, rows, -1).flatten(1)  # (B, h·w)
        bias = torch.zeros(keys.shape, dtype=dtype, device=keys.device)
        bias = bias.masked_fill(~keys, torch.finfo(dtype).min)
        return bias[:, None, None].expand(-1, 1, keys.shape[1], -1)  # (B, 1, N, N)
