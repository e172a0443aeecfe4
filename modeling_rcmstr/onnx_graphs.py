"""The graphs of a recogniser as ONNX: a copy of the model that can be written, and writing it.

    CTC          model.onnx            pixel_values, pixel_mask → logits, frame_mask
    attention    encoder_model.onnx    pixel_values, pixel_mask → memory, keys, bias
                 decoder_model.onnx    input_ids, hidden, cell, memory, keys, bias
                                       → logits, next_hidden, next_cell, attention

The copy computes what the model does in evaluation mode. Batch norms are folded into their convolutions,
LSTMs become ONNX's own operator, which knows the length of each word, and the spline of the rectifier, whose
matrices depend on the size alone, becomes a constant. Reading is in `onnx_reading`, the comparison with the
model in `onnx_check`.
"""

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .bidirectional_lstm import BidirectionalLSTM
from .encoder_cnn import ConvLayer
from .recognition_heads import LSTMDecoderState
from .rectification import ThinPlateSplineRectifier, thin_plate_weights

OPSET = 18
# A file of Protocol Buffers ends at 2 GiB; larger weights stand in a file of their own beside the graph.
LARGEST_FILE = 2**31 - 2**26
CTC_FILE, ENCODER_FILE, DECODER_FILE = "model.onnx", "encoder_model.onnx", "decoder_model.onnx"
STATE_NAMES = ("hidden", "cell", "memory", "keys", "bias")


def graph_files(decoder_type: str) -> tuple[str, ...]:
    """Name the files of a CTC or an attention recogniser."""
    return (CTC_FILE,) if decoder_type == "ctc" else (ENCODER_FILE, DECODER_FILE)


def charset_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """Hash a vocabulary (token → id), so that a graph can be told from one of another charset."""
    text = json.dumps(sorted(vocabulary.items(), key=lambda item: item[1]), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_fixed_width(config: Any) -> bool:
    """Say whether words must have the nominal width: the rectifier's spline is made for one size."""
    return config.rectifier_type == "tps"


class FoldedConvLayer(nn.Module):
    """A `ConvLayer` in evaluation mode: one convolution, and zeros outside the active set."""

    def __init__(self, layer: ConvLayer) -> None:
        """Fold the running statistics into weights."""
        super().__init__()
        convolution, norm = layer.convolution, layer.normalization
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        self.stride, self.padding = convolution.stride, convolution.padding
        self.activation = layer.activation

    def forward(
        self,
        feature_map: Tensor,
        active: Tensor | None = None,
        update_statistics: bool = True,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C', H', W')."""
        feature_map = F.conv2d(feature_map, self.weight, self.bias, self.stride, self.padding)
        feature_map = F.relu(feature_map) if self.activation else feature_map
        return feature_map if active is None else feature_map * active


class LSTMOperator(nn.Module):
    """A `BidirectionalLSTM` as ONNX's operator LSTM; it can be exported, not run."""

    def __init__(self, layer: BidirectionalLSTM) -> None:
        """Bring the weights to the operator's order of gates."""
        super().__init__()
        lstm = layer.lstm
        self.hidden_size = lstm.hidden_size

        def stack(*names: str) -> nn.Parameter:
            rows = [
                torch.cat([_operator_gates(getattr(lstm, name + end)) for name in names])
                for end in ("l0", "l0_reverse")
            ]
            return nn.Parameter(torch.stack(rows).detach())

        self.input_weight = stack("weight_ih_")  # (2, 4·hidden, C)
        self.recurrent_weight = stack("weight_hh_")  # (2, 4·hidden, hidden)
        self.bias = stack("bias_ih_", "bias_hh_")  # (2, 8·hidden)
        self.projection = layer.projection

    def forward(self, sequence: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """Return (B, T, output_size); zero at padded frames."""
        lengths = None if frame_mask is None else frame_mask.sum(1).to(torch.int32)
        batch, frames = sequence.shape[:2]
        hidden = torch.onnx.ops.symbolic(
            "LSTM",
            [sequence.transpose(0, 1), self.input_weight, self.recurrent_weight, self.bias, lengths],
            {"hidden_size": self.hidden_size, "direction": "bidirectional"},
            dtype=sequence.dtype,
            shape=(frames, 2, batch, self.hidden_size),
            version=OPSET,
        )
        output = self.projection(hidden.permute(2, 0, 1, 3).flatten(2))
        return output if frame_mask is None else output * frame_mask[..., None]


class FixedSizeRectifier(nn.Module):
    """A `ThinPlateSplineRectifier` for words of one size."""

    weights: Tensor

    def __init__(self, rectifier: ThinPlateSplineRectifier, height: int, width: int) -> None:
        """Compute the spline's weights."""
        super().__init__()
        self.localization, self.hidden, self.points = (
            rectifier.localization,
            rectifier.hidden,
            rectifier.points,
        )
        self.size = (height, width)
        self.register_buffer("weights", thin_plate_weights(self.points.num_points, height, width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Straighten (B, C, height, width) images."""
        features = self.localization(pixel_values).flatten(1)
        grid = self.weights @ self.points(F.relu(self.hidden(features)))
        grid = grid.reshape(-1, *self.size, 2).float()
        return F.grid_sample(pixel_values, grid, padding_mode="border", align_corners=True)


class CTCGraph(nn.Module):
    """Pixels to scores of frames."""

    inputs, outputs = ("pixel_values", "pixel_mask"), ("logits", "frame_mask")

    def __init__(self, model: nn.Module) -> None:
        """Wrap what `exportable_copy` gave."""
        super().__init__()
        self.recogniser: Any = model

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return `logits` (B, T, V) and, with a mask, `frame_mask` (B, T)."""
        encoded = self.recogniser.model(pixel_values, pixel_mask=pixel_mask)
        output = self.recogniser.head(encoded.last_hidden_state, encoded.frame_mask)
        return (output.logits,) if pixel_mask is None else (output.logits, output.frame_mask)


class EncoderGraph(nn.Module):
    """Pixels to what the attention decoder attends to."""

    inputs, outputs = ("pixel_values", "pixel_mask"), ("memory", "keys", "bias")

    def __init__(self, model: nn.Module) -> None:
        """Wrap what `exportable_copy` gave."""
        super().__init__()
        self.recogniser: Any = model

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return `memory` (B, T, M), `keys` (B, T, hidden) and, with a mask, `bias` (B, T)."""
        encoded = self.recogniser.model(pixel_values, pixel_mask=pixel_mask)
        kept = self.recogniser.head.start(encoded.last_hidden_state, encoded.frame_mask).tensors
        return tuple(kept[name] for name in self.outputs if name in kept)


class DecoderGraph(nn.Module):
    """One step of the attention decoder."""

    inputs, outputs = ("input_ids", *STATE_NAMES), ("logits", "next_hidden", "next_cell", "attention")

    def __init__(self, model: nn.Module) -> None:
        """Wrap what `exportable_copy` gave."""
        super().__init__()
        self.recogniser: Any = model

    def forward(
        self, input_ids: Tensor, hidden: Tensor, cell: Tensor, memory: Tensor, keys: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        """Read (B,) ids; return scores (B, V) of what follows, the next state, and attention (B, T)."""
        state = LSTMDecoderState(hidden, cell, memory, keys, bias)
        output = self.recogniser.head(input_ids[:, None], state)
        return output.logits[:, 0], state.tensors["hidden"], state.tensors["cell"], output.attention[:, 0]


def exportable_copy(model: Any) -> Any:
    """Copy a recogniser to the CPU in float32, with the parts that ONNX cannot express replaced."""
    clone = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    clone.set_attn_implementation("eager")
    height, width = clone.config.image_size
    for parent in list(clone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvLayer):
                setattr(parent, name, FoldedConvLayer(child))
            elif isinstance(child, BidirectionalLSTM):
                setattr(parent, name, LSTMOperator(child))
            elif isinstance(child, ThinPlateSplineRectifier):
                setattr(parent, name, FixedSizeRectifier(child, height, width))
    return clone


def write_graphs(model: Any, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the graphs of a recogniser.

    Args:
        model: a CTC or an attention recogniser; not changed.
        folder: where to; it exists.
        metadata: entries of every file's `metadata_props`; `graph` is added.
    """
    config = model.config
    clone = exportable_copy(model)
    # Three words of unequal width, the first as wide as the batch: sizes of 0, 1 and equal ones are special.
    height, width = config.image_size
    pixel_values = torch.zeros(3, config.num_channels, height, width)
    examples: dict[str, Tensor] = {"pixel_values": pixel_values}
    dynamic: dict[str, dict[int, str]] = {"pixel_values": {0: "batch"}}
    if not has_fixed_width(config):
        examples["pixel_mask"] = torch.ones(3, height, width, dtype=torch.long)
        dynamic = {"pixel_values": {0: "batch", 3: "width"}, "pixel_mask": {0: "batch", 2: "width"}}
    if config.decoder_type == "ctc":
        _write_graph(CTCGraph(clone), examples, dynamic, folder / CTC_FILE, metadata)
        return
    _write_graph(EncoderGraph(clone), examples, dynamic, folder / ENCODER_FILE, metadata)
    hidden_size, memory_size = clone.head.cell.hidden_size, clone.head.memory_projection.in_features
    shapes = {
        "hidden": (3, hidden_size),
        "cell": (3, hidden_size),
        "memory": (3, 7, memory_size),
        "keys": (3, 7, hidden_size),
        "bias": (3, 7),
    }
    examples = {name: torch.zeros(shape) for name, shape in shapes.items()}
    dynamic = {
        name: {0: "batch", 1: "frames"} if name in ("memory", "keys", "bias") else {0: "batch"}
        for name in shapes
    }
    examples = {"input_ids": torch.zeros(3, dtype=torch.long), **examples}
    dynamic = {"input_ids": {0: "batch"}, **dynamic}
    _write_graph(DecoderGraph(clone), examples, dynamic, folder / DECODER_FILE, metadata)


def _write_graph(
    graph: CTCGraph | EncoderGraph | DecoderGraph,
    examples: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Trace one graph and write it, without the tracer's notes, which hold paths of this machine."""
    outputs: tuple[str, ...] = graph.outputs
    if isinstance(graph, CTCGraph | EncoderGraph) and "pixel_mask" not in examples:
        outputs = outputs[:-1]
    with _quietly(), torch.no_grad():
        program: Any = torch.onnx.export(
            graph.eval(),
            tuple(examples.values()),
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes={name: dict(axes) for name, axes in dynamic.items()},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*program.model.graph.inputs, *program.model.graph.initializers.values()):
            value.metadata_props.clear()
        program.model.graph.metadata_props.clear()
        program.model.metadata_props.clear()
        program.model.metadata_props.update({**metadata, "graph": path.stem})
        num_bytes = sum(tensor.nbytes for tensor in graph.state_dict().values())
        program.save(path, external_data=num_bytes > LARGEST_FILE)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's remarks on libraries that are not installed to itself."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _operator_gates(weight: Tensor) -> Tensor:
    """Reorder (4·hidden, …) from PyTorch's order (input, forget, cell, output) to ONNX's (i, o, f, c)."""
    entrance, forget, cell, leaving = weight.chunk(4)
    return torch.cat([entrance, leaving, forget, cell])
