"""The graphs compute what the model does: on any batch, any width, padded or not."""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from modeling_rcmstr import onnx_graphs
from modeling_rcmstr.encoder_cnn import ConvLayer
from modeling_rcmstr.onnx_graphs import (
    DECODER_FILE,
    ENCODER_FILE,
    OPSET,
    FixedSizeRectifier,
    FoldedConvLayer,
    charset_fingerprint,
    graph_files,
)
from modeling_rcmstr.rectification import ThinPlateSplineRectifier
from tests.exported_recognisers import EACH, exported, recogniser
from tests.recognisers import liven, ragged_words

BATCHES = ([64], [128, 64, 96], [32] * 8, [48, 160])


def run(path: Path, **tensors: Tensor) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {name: tensor.numpy() for name, tensor in tensors.items()})
    return {name: torch.from_numpy(result) for name, result in zip(names, results, strict=True)}


def assert_near(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max().clamp_min(1))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=5e-5 * scale)


@torch.no_grad()
def compare(folder: Path, model: Any, pixel_values: Tensor, pixel_mask: Tensor | None) -> None:
    """Every output of every graph, on one batch."""
    inputs = {"pixel_values": pixel_values, **({} if pixel_mask is None else {"pixel_mask": pixel_mask})}
    if not model.can_generate():
        expected, found = model(**inputs), run(folder / "model.onnx", **inputs)
        if pixel_mask is None:
            assert_near(found["logits"], expected.logits)
            return
        assert torch.equal(found["frame_mask"], expected.frame_mask)
        assert_near(found["logits"][expected.frame_mask], expected.logits[expected.frame_mask])
        assert bool((found["logits"][~expected.frame_mask].argmax(-1) == 0).all()), "padding is blank"
        return
    encoded = model.model(**inputs)
    state = model.head.start(encoded.last_hidden_state, encoded.frame_mask)
    found = run(folder / ENCODER_FILE, **inputs)
    for name, tensor in found.items():
        assert_near(tensor, state.tensors[name])
    tensors = {"bias": torch.zeros(state.tensors["memory"].shape[:2]), **state.tensors}
    for step in range(3):
        ids = torch.arange(len(pixel_values)) % 5 + step
        expected = model.head(ids[:, None], state)
        found = run(folder / DECODER_FILE, input_ids=ids, **tensors)
        assert_near(found["logits"], expected.logits[:, 0])
        assert_near(found["attention"], expected.attention[:, 0])
        tensors.update(hidden=found["next_hidden"], cell=found["next_cell"])
        assert_near(tensors["hidden"], state.tensors["hidden"])


@pytest.mark.parametrize(("family", "encoder", "decoder"), EACH)
def test_graphs_compute_what_the_model_does(family: str, encoder: str, decoder: str) -> None:
    folder, model = exported(family, encoder, decoder), recogniser(family, encoder, decoder)
    for widths in BATCHES:
        _, pixel_values, pixel_mask = ragged_words(widths)
        compare(folder, model, pixel_values, pixel_mask)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder", "fields"),
    [
        ("vit", "ctc", {"position_embedding_type": "learned", "max_position_columns": 20}),
        ("vit", "attention", {"decoder_input": "tokens", "head_bilstm_layers": 0}),
        (
            "cnn",
            "ctc",
            {
                "cnn_type": "resnet45",
                "embedding_sizes": (8,),
                "hidden_sizes": (8, 8, 16, 16, 24),
                "depths": (1, 1, 1, 1, 1),
                "head_bilstm_layers": 0,
            },
        ),
    ],
)
def test_other_parts_are_exported_too(encoder: str, decoder: str, fields: dict[str, Any]) -> None:
    folder = exported("rcmstr", encoder, decoder, **fields)
    for widths in BATCHES[1:]:
        _, pixel_values, pixel_mask = ragged_words(widths)
        compare(folder, recogniser("rcmstr", encoder, decoder, **fields), pixel_values, pixel_mask)


@pytest.mark.slow
def test_a_rectifier_fixes_the_width_and_leaves_the_batch_free() -> None:
    folder, model = (
        make("rcmstr", "cnn", "ctc", rectifier_type="tps", **more)
        for make, more in ((exported, {"keeps": False}), (recogniser, {}))
    )
    for batch in (1, 3, 8):
        compare(folder, model, torch.randn(batch, 3, 32, 128), None)
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    assert shapes == {"pixel_values": ["batch", 3, 32, 128]}


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_files_say_what_they_are_and_nothing_of_this_machine(decoder: str) -> None:
    names = ("rcmstr", "cnn", "ctc") if decoder == "ctc" else ("persec", "vit", "attention")
    for file in graph_files(decoder):
        path = exported(*names) / file
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [opset.version for opset in model.opset_import if opset.domain == ""] == [OPSET]
        assert {opset.domain for opset in model.opset_import} == {""}, "no operator of a vendor"
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert metadata["graph"] == path.stem
        assert metadata["decoder_type"] == decoder
        assert metadata["model_type"] == names[0]
        content = path.read_bytes()
        assert str(Path(__file__).parents[1]).encode() not in content
        assert str(Path(torch.__file__).parent).encode() not in content
        axes = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in model.graph.input
        }
        if file != DECODER_FILE:
            assert axes["pixel_values"] == ["batch", 3, 32, "width"]
            assert axes["pixel_mask"] == ["batch", 32, "width"]
        else:
            assert axes["memory"][:2] == ["batch", "frames"]


def test_the_model_is_left_as_it_was() -> None:
    model = recogniser("rcmstr", "cnn", "ctc").double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clone = onnx_graphs.exportable_copy(model)
    assert {parameter.dtype for parameter in clone.parameters()} == {torch.float32}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any(isinstance(module, ConvLayer) for module in model.modules())
    assert not any(isinstance(module, ConvLayer) for module in clone.modules())
    model.float()


@torch.no_grad()
def test_a_folded_layer_is_the_layer() -> None:
    layer = ConvLayer(3, 5, kernel_size=2, stride=(2, 1), padding=(0, 1)).eval()
    liven(layer)
    feature_map = torch.randn(2, 3, 8, 9)
    active = (torch.rand(2, 1, 4, 10) > 0.5).float()
    folded = FoldedConvLayer(layer)
    torch.testing.assert_close(folded(feature_map), layer(feature_map), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded(feature_map, active), layer(feature_map, active), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_rectifier_of_one_size_is_the_rectifier() -> None:
    rectifier = ThinPlateSplineRectifier(3, 20, "curved").eval()
    rectifier.points.bias.copy_(rectifier.points.initial_bias())
    liven(rectifier)
    images = torch.randn(2, 3, 32, 100)
    torch.testing.assert_close(FixedSizeRectifier(rectifier, 32, 100)(images), rectifier(images))


def test_charsets_differ_by_character_and_by_order() -> None:
    prints = [charset_fingerprint(v) for v in ({"a": 0, "b": 1}, {"b": 0, "a": 1}, {"a": 0, "é": 1})]
    assert len(set(prints)) == 3
    assert charset_fingerprint({"b": 1, "a": 0}) == prints[0]
