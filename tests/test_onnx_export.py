"""`export_onnx`: a complete folder or nothing, and never a graph that reads differently."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch

import modeling_rcmstr
from modeling_rcmstr import onnx_export, onnx_graphs
from modeling_rcmstr.onnx_check import draw_check_words
from modeling_rcmstr.onnx_export import OnnxExportError, export_onnx, read_check
from tests.exported_recognisers import CHECKED, EACH, exported, processor_for, recogniser
from tests.recognisers import class_of

CTC = ("rcmstr", "cnn", "ctc")


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "CHECKED_WORDS", CHECKED)


@pytest.mark.parametrize(("family", "encoder", "decoder"), EACH)
def test_every_recogniser_reads_alike_and_its_folder_is_complete(
    family: str, encoder: str, decoder: str
) -> None:
    folder = exported(family, encoder, decoder)
    check = read_check(folder)
    assert check["words"] == CHECKED
    assert check["equal"] + len(check["near_ties"]) == CHECKED
    assert check["different"] == []
    assert 0 < check["largest_relative_difference"] <= check["tolerance"]
    graphs = {"model.onnx"} if decoder == "ctc" else {"encoder_model.onnx", "decoder_model.onnx"}
    others = {"config.json", "onnx_check.json", "preprocessor_config.json", "processor_config.json"}
    others |= {"tokenizer_config.json", "vocab.json"}
    others |= {"generation_config.json"} if decoder == "attention" else set()
    assert {path.name for path in folder.iterdir()} == graphs | others
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = "OnnxForTextRecognition" if decoder == "ctc" else "OnnxForConditionalGeneration"
    assert config["architectures"] == [kind]
    assert config["model_type"] == family
    assert recogniser(family, encoder, decoder).config.architectures != [kind], "the model stays as it is"


def test_a_thousand_words_are_checked_outside_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert onnx_export.CHECKED_WORDS >= 1000


def test_graphs_carry_metadata() -> None:
    entries = onnx.load(exported(*CTC) / "model.onnx").metadata_props
    assert {entry.key: entry.value for entry in entries} == {
        "model_type": "rcmstr",
        "decoder_type": "ctc",
        "encoder_type": "cnn",
        "charset_fingerprint": onnx_graphs.charset_fingerprint(processor_for("ctc").tokenizer.get_vocab()),
        "height": "32",
        "width": "multiple of 4",
        "opset": "18",
        "package": f"modeling_rcmstr {modeling_rcmstr.__version__}",
        "graph": "model",
    }


def copy_graphs(monkeypatch: pytest.MonkeyPatch, source: Path, tamper: Any = None) -> None:
    """Spare the tracing: graphs come from an export of the same model, tampered with."""

    def write(model: Any, folder: Path, metadata: Any) -> None:
        for path in source.glob("*.onnx"):
            graph = onnx.load(path)
            if tamper is not None:
                tamper(graph)
            onnx.save(graph, folder / path.name)

    monkeypatch.setattr(onnx_export, "write_graphs", write)


def swap_two_classes(graph: Any) -> None:
    """Exchange two rows of the last layer: every score stays, two characters change places."""
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("classifier.bias"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values += 30 * (torch.arange(len(values)) == 7).numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            return
    raise AssertionError("no bias of the classifier found")


def test_a_graph_that_reads_differently_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_graphs(monkeypatch, exported(*CTC), swap_two_classes)
    model = recogniser("rcmstr", "cnn", "ctc")
    words = list(draw_check_words("xyz", 5, seed=9))
    with pytest.raises(
        OnnxExportError, match=r"words differ \(picture 0: model .*Nothing was written"
    ) as caught:
        export_onnx(model, processor_for("ctc"), tmp_path / "deep" / "out", words)
    assert caught.value.comparison.words == CHECKED
    assert list((tmp_path / "deep").iterdir()) == []


def test_the_callers_words_come_first_and_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_graphs(monkeypatch, exported(*CTC))
    monkeypatch.setattr(onnx_export, "CHECKED_WORDS", 4)
    words = list(draw_check_words("xyz", 6, seed=9))
    (tmp_path / "out").mkdir()
    folder = export_onnx(recogniser("rcmstr", "cnn", "ctc"), processor_for("ctc"), tmp_path / "out", words)
    assert folder == tmp_path / "out"
    assert read_check(folder)["words"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        export_onnx(recogniser("rcmstr", "cnn", "ctc"), processor_for("ctc"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named_before_anything_is_done(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, library, missing)
    with pytest.raises(ImportError, match=r"pip install 'modeling-rcmstr\[export\]'"):
        export_onnx(recogniser("rcmstr", "cnn", "ctc"), processor_for("ctc"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_read_is_refused(tmp_path: Path) -> None:
    model = recogniser("rcmstr", "cnn", "ctc")
    encoder = class_of("rcmstr")(model.config)
    with pytest.raises(ValueError, match="only recognisers can be exported"):
        export_onnx(encoder, processor_for("ctc"), tmp_path / "out")
    with pytest.raises(ValueError, match="37 classes and the tokenizer 39"):
        export_onnx(model, processor_for("attention"), tmp_path / "out")
    untrained = class_of("rcmstr", "ctc")(model.config)
    untrained.untrained_weights = frozenset({"head.classifier.weight"})
    with pytest.raises(ValueError, match="lacks 1 of its weights"):
        export_onnx(untrained, processor_for("ctc"), tmp_path / "out")


@pytest.mark.slow
def test_large_weights_stand_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "LARGEST_FILE", 0)
    folder = export_onnx(recogniser("rcmstr", "cnn", "ctc"), processor_for("ctc"), tmp_path / "out")
    assert (folder / "model.onnx.data").stat().st_size > (folder / "model.onnx").stat().st_size
    reader = modeling_rcmstr.OnnxTextRecognitionModel.from_pretrained(folder)
    reader.save_pretrained(tmp_path / "copy")
    again = modeling_rcmstr.OnnxTextRecognitionModel.from_pretrained(tmp_path / "copy")
    pixel_values = torch.randn(2, 3, 32, 64)
    assert torch.equal(reader(pixel_values).logits, again(pixel_values).logits)
