"""A graph runs where and on as many threads as the caller says; what is missing is named."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from modeling_rcmstr import OnnxTextRecognitionModel
from modeling_rcmstr.onnx_session import CPU, GraphSession, import_onnxruntime
from tests.exported_recognisers import exported

CTC = ("rcmstr", "cnn", "ctc")


def test_threads_and_providers_are_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = OnnxTextRecognitionModel.from_pretrained(exported(*CTC), num_threads=1)
    session = reader.sessions["model.onnx"]
    assert session.session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(ValueError, match="`num_threads` must be at least 1, got 0"):
        OnnxTextRecognitionModel.from_pretrained(exported(*CTC), num_threads=0)
    with pytest.raises(ValueError, match="no provider 'NoSuchProvider'; it has .*CPUExecutionProvider"):
        OnnxTextRecognitionModel.from_pretrained(exported(*CTC), providers=["NoSuchProvider"])
    import onnxruntime

    seen = []

    def open_session(path: str, options: Any, providers: Any) -> Any:
        seen.append(providers)
        return session.session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    assert reader.to("cuda:1", torch.float16).device == torch.device("cuda:1")
    assert reader.to(memory_format=torch.channels_last).device == torch.device("cuda:1")
    assert seen == [[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]]


def test_a_gpu_without_its_provider_is_read_on_the_cpu() -> None:
    session = GraphSession(exported(*CTC) / "model.onnx", torch.device("cuda:0"))
    assert session.providers == [CPU]
    assert session.session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_results_come_by_name() -> None:
    session = GraphSession(exported(*CTC) / "model.onnx", torch.device("cpu"))
    strided = torch.randn(2, 32, 64, 3).permute(0, 3, 1, 2)
    results = session.run({"pixel_values": strided, "pixel_mask": torch.ones(2, 32, 64, dtype=torch.long)})
    assert list(results) == session.outputs == ["logits", "frame_mask"]
    assert results["logits"].shape == (2, 17, 37)
    assert results["frame_mask"].dtype == torch.bool
    assert session.metadata["graph"] == "model"


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "onnxruntime", missing)
    with pytest.raises(ImportError, match=r"pip install 'modeling-rcmstr\[export\]', or onnxruntime-gpu"):
        import_onnxruntime()
