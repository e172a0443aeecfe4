"""ONNX Runtime for one graph: where it runs, on how many threads, tensors in and out.

ONNX Runtime is imported when a graph is opened, not before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

logger = logging.get_logger(__name__)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        ImportError: when it is not installed, with the command that installs it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"reading an ONNX graph needs ONNX Runtime, which cannot be imported ({error}); "
            "pip install 'modeling-rcmstr[export]', or onnxruntime-gpu instead of onnxruntime for CUDA."
        ) from error
    return onnxruntime


class GraphSession:
    """An open graph."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        num_threads: int | None = None,
        providers: Sequence[Any] | None = None,
    ) -> None:
        """Open a graph.

        Args:
            path: its file.
            device: where to compute, unless `providers` say it.
            num_threads: threads of the processor; None for as many as PyTorch uses.
            providers: ONNX Runtime's execution providers, names or (name, options).

        Raises:
            ImportError: without ONNX Runtime.
            ValueError: for unusable arguments, and a file that ONNX Runtime cannot open.
        """
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"`num_threads` must be at least 1, got {num_threads}.")
        runtime = import_onnxruntime()
        available = runtime.get_available_providers()
        names = [name if isinstance(name, str) else name[0] for name in providers or ()]
        unknown = [name for name in names if name not in available]
        if unknown:
            raise ValueError(
                f"this ONNX Runtime has no provider {unknown[0]!r}; it has {', '.join(available)}."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=list(providers or _providers_of(device, available))
            )
        except Exception as error:  # the runtime's own classes have no common one
            raise ValueError(f"ONNX Runtime cannot open {path}: {error}") from error
        self.outputs = [output.name for output in self.session.get_outputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    @property
    def providers(self) -> list[str]:
        """The execution providers in use, the preferred one first."""
        return list(self.session.get_providers())

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; results by name, on the device of the input."""
        feed = {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in tensors.items()}
        device = next(iter(tensors.values())).device
        results = self.session.run(self.outputs, feed)
        return {
            name: torch.from_numpy(result).to(device)
            for name, result in zip(self.outputs, results, strict=True)
        }


def _providers_of(device: torch.device, available: Sequence[str]) -> list[Any]:
    """Choose what runs on a device: on a GPU CUDA's provider, where there is one, and the CPU's."""
    if device.type != "cuda":
        return [CPU]
    if CUDA in available:
        return [(CUDA, {"device_id": device.index or 0}), CPU]
    logger.warning_once(
        "this ONNX Runtime has no CUDA provider and reads on the CPU; pip install onnxruntime-gpu instead of "
        "onnxruntime."
    )
    return [CPU]
