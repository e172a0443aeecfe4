"""Which pixels the read text hangs on: integrated gradients for any recogniser, attention for a decoder.

Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) divide among the pixels what the picture
brings beyond an empty one of the background's colour. What is divided are the log-odds of the read
characters, which a sure reading does not flatten as it flattens probabilities. Attention maps are the
decoder's own weights, laid over the pixels that its frames stand on. A map says what moved the model, not
that it was right.

Drawing a map on its picture is in `reading_picture`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GRADIENT, ATTENTION = "gradient", "attention"
# Points on the way from the empty picture to the word.
DEFAULT_STEPS = 16
NO_TARGET = -100


@dataclass(frozen=True)
class Saliency:
    """A map for each word of a batch.

    Args:
        maps: (B, H, W) float32, not negative, 0 on padding; comparable within one word only.
        kind: "gradient" or "attention", what the map shows.
    """

    maps: Tensor
    kind: str


@dataclass(frozen=True)
class ReadCharacters:
    """What a recogniser read, and where in its scores.

    Args:
        ids: (B, T) class that counts at each frame (CTC) or step (attention), -100 where none does.
        decoder_input_ids: (B, T) tokens that the steps of an attention decoder are given; None for CTC.
        cross_attention: (B, T, frames) where the steps looked; None for CTC.
        grid: (rows, columns) of the encoder's feature map; None for CTC.
    """

    ids: Tensor
    decoder_input_ids: Tensor | None = None
    cross_attention: Tensor | None = None
    grid: tuple[int, int] | None = None


def text_saliency(
    model: Any, pixel_values: Tensor, pixel_mask: Tensor | None = None, kind: str | None = None
) -> Saliency:
    """Map what a recogniser reads to the pixels that it reads it from.

    Args:
        model: a recogniser of either family with either head, in evaluation mode.
        pixel_values: (B, C, H, W) normalised images.
        pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
        kind: "gradient" (integrated gradients, summed over channels, without their sign), or "attention"
            (mean over the characters) for an attention recogniser; None for attention where there is one.

    Returns:
        The maps and their kind.

    Raises:
        ValueError: for a model in training mode, an unknown kind, or attention maps of a CTC recogniser.
    """
    if model.training:
        raise ValueError("saliency needs a model in evaluation mode; call `model.eval()` first.")
    has_attention = bool(model.can_generate())
    kind = kind or (ATTENTION if has_attention else GRADIENT)
    if kind not in (GRADIENT, ATTENTION):
        raise ValueError(f"`kind` must be {GRADIENT!r} or {ATTENTION!r}, got {kind!r}.")
    if kind == GRADIENT:
        maps = integrated_gradients(model, pixel_values, pixel_mask).sum(1).abs()  # (B, H, W)
    elif has_attention:
        steps = attention_maps(model, pixel_values, pixel_mask)
        counts = (steps.sum((-2, -1)) > 0).sum(1)
        maps = steps.sum(1) / counts.clamp_min(1)[:, None, None]  # (B, H, W)
    else:
        raise ValueError("a CTC recogniser has no attention over its frames; ask for `kind='gradient'`.")
    return Saliency(maps if pixel_mask is None else maps * pixel_mask, kind)


def integrated_gradients(
    model: Any, pixel_values: Tensor, pixel_mask: Tensor | None = None, steps: int = DEFAULT_STEPS
) -> Tensor:
    """Divide the evidence of the read text among the pixels.

    Args:
        model: see `text_saliency`.
        pixel_values: (B, C, H, W) normalised images.
        pixel_mask: (B, H, W), or None.
        steps: points at which the gradient is taken; the sum over pixels comes nearer to the evidence of
            the word less that of its background the more there are.

    Returns:
        (B, C, H, W) float32 share of each pixel, in natural log-odds, negative against the text.

    Raises:
        ValueError: for less than one step.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}; {DEFAULT_STEPS} do for a picture.")
    characters = read_characters(model, pixel_values, pixel_mask)
    background = background_values(pixel_values, pixel_mask)
    ink = pixel_values.float() - background
    gradients = torch.zeros_like(ink)
    for step in range(steps):
        pixels = background + ink * ((step + 0.5) / steps)
        gradients += input_gradients(model, pixels, characters, pixel_mask)
    return gradients * ink / steps


def input_gradients(
    model: Any, pixel_values: Tensor, characters: ReadCharacters, pixel_mask: Tensor | None = None
) -> Tensor:
    """Differentiate `text_evidence` by the pixels.

    Args:
        model: see `text_saliency`.
        pixel_values: (B, C, H, W) normalised images.
        characters: the text whose evidence is meant.
        pixel_mask: (B, H, W), or None.

    Returns:
        (B, C, H, W) float32 change of a word's evidence with each of its normalised pixels.
    """
    # A pipeline reads in inference mode, whose tensors know no gradient.
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().to(model.dtype).requires_grad_(True)
        # cuDNN differentiates LSTMs in training mode only.
        with torch.backends.cudnn.flags(enabled=False):
            evidence = text_evidence(model, pixels, characters, pixel_mask)
            (gradients,) = torch.autograd.grad(evidence.sum(), pixels)
    return gradients.float()


def text_evidence(
    model: Any, pixel_values: Tensor, characters: ReadCharacters, pixel_mask: Tensor | None = None
) -> Tensor:
    """Sum the log-odds that a recogniser gives to characters.

    Args:
        model: see `text_saliency`.
        pixel_values: (B, C, H, W) normalised images, not always those that the characters were read in.
        characters: what `read_characters` gave.
        pixel_mask: (B, H, W), or None.

    Returns:
        (B,) natural log-odds.
    """
    arguments = {"pixel_values": pixel_values, "pixel_mask": pixel_mask}
    if characters.decoder_input_ids is not None:
        arguments["decoder_input_ids"] = characters.decoder_input_ids
    counted = characters.ids != NO_TARGET
    logits = model(**arguments).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    odds = log_odds(logits, characters.ids.clamp_min(0))
    return torch.where(counted, odds, 0.0).sum(1)


@torch.no_grad()
def read_characters(model: Any, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> ReadCharacters:
    """Read words and note what each character was read by.

    With CTC a character counts at the frame that is surest of it, with attention (greedy search) at its step.
    A word that reads as empty counts the least certain blank or the end token, as its score does.

    Args:
        model: see `text_saliency`.
        pixel_values: (B, C, H, W) normalised images.
        pixel_mask: (B, H, W), or None.

    Returns:
        The characters.
    """
    config = model.config
    if not model.can_generate():
        outputs = model(pixel_values=pixel_values, pixel_mask=pixel_mask)
        logits, frame_mask = outputs.logits.float(), outputs.frame_mask
        lengths = [logits.shape[1]] * len(logits) if frame_mask is None else frame_mask.sum(1).tolist()
        ids = torch.full(logits.shape[:2], NO_TARGET, device=logits.device)
        for row, length in enumerate(lengths):
            tokens = logits[row, :length].argmax(-1)
            odds = log_odds(logits[row, :length], tokens)
            for frame in _peak_frames(tokens.tolist(), odds.tolist(), config.pad_token_id):
                ids[row, frame] = tokens[frame]
        return ReadCharacters(ids)
    sequences = model.generate(pixel_values=pixel_values, pixel_mask=pixel_mask, num_beams=1, do_sample=False)
    given, tokens = sequences[:, :-1], sequences[:, 1:]
    outputs = model(
        pixel_values=pixel_values, pixel_mask=pixel_mask, decoder_input_ids=given, output_attentions=True
    )
    ended = (tokens == config.eos_token_id).cumsum(1) > 0
    counted = ~ended & (tokens != config.pad_token_id) & (tokens != config.bos_token_id)
    counted[:, 0] |= ~counted.any(1)
    rows, columns = outputs.encoder_last_hidden_state.shape[-2:]
    return ReadCharacters(
        ids=tokens.masked_fill(~counted, NO_TARGET),
        decoder_input_ids=given,
        cross_attention=outputs.cross_attentions[-1].mean(1).float(),
        grid=(rows, columns),
    )


def log_odds(logits: Tensor, ids: Tensor) -> Tensor:
    """Compare a class with all others: log(p / (1 - p)).

    Args:
        logits: (..., V) scores.
        ids: (...) class of each.

    Returns:
        (...) natural log-odds.
    """
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    others = logits.scatter(-1, ids[..., None], float("-inf"))
    return chosen - others.logsumexp(-1)


def attention_maps(model: Any, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Tensor:
    """Lay the attention of each step of an attention recogniser over the pixels.

    Args:
        model: an attention recogniser.
        pixel_values: (B, C, H, W) normalised images.
        pixel_mask: (B, H, W), or None.

    Returns:
        (B, L, H, W) float32; the map of a character sums to 1, that of any other step is 0. Of a word
        without characters the end token's is kept.
    """
    height, width = pixel_values.shape[-2:]
    characters = read_characters(model, pixel_values, pixel_mask)
    attention, grid = characters.cross_attention, characters.grid
    assert attention is not None
    assert grid is not None
    if attention.shape[-1] == grid[1]:
        grid = (1, grid[1])  # the decoder sees columns
    # The TRBA CNN has a frame on each border, one more than strides fit into the width.
    extra = int(width % grid[1] != 0)
    cells = attention.unflatten(-1, grid)  # (B, L, rows, columns)
    maps = attention.new_zeros(*attention.shape[:2], height, width)
    widths = [width] * len(maps) if pixel_mask is None else pixel_mask[:, 0].sum(-1).tolist()
    for row, pixels in enumerate(widths):
        columns = pixels * (grid[1] - extra) // width + extra
        maps[row, ..., :pixels] = F.interpolate(
            cells[row, None, ..., :columns], (height, pixels), mode="bilinear", align_corners=bool(extra)
        )[0]
    maps = maps / maps.sum((-2, -1), keepdim=True).clamp_min(1e-12)
    return maps * (characters.ids != NO_TARGET)[:, :, None, None]


def background_values(pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Tensor:
    """Take the median of each channel of each word, its padding left out, as (B, C, 1, 1) float32."""
    values = pixel_values.detach().float()
    if pixel_mask is not None:
        values = values.masked_fill(pixel_mask[:, None] == 0, float("nan"))
    return values.flatten(2).nanmedian(-1).values[..., None, None]


def _peak_frames(tokens: list[int], odds: list[float], blank_id: int) -> list[int]:
    """Choose the surest frame of each run of a character, or the least certain frame when all are blank."""
    peaks: list[int] = []
    for frame, token in enumerate(tokens):
        if token == blank_id:
            continue
        if not frame or tokens[frame - 1] != token:
            peaks.append(frame)
        elif odds[frame] > odds[peaks[-1]]:
            peaks[-1] = frame
    return peaks or [min(range(len(tokens)), key=odds.__getitem__)]
