"""Write a recogniser as ONNX: a complete folder, checked word by word before it appears.

    from modeling_rcmstr.onnx_export import export_onnx
    export_onnx(reader.model, reader.processor, Path("my_words_onnx"))

The folder holds the graphs (`onnx_graphs`), config.json, processor and tokenizer files, and what the check
found, `onnx_check.json`. `pipeline("text-recognition", model=folder)` and `rcmstr read --checkpoint folder`
read with it (`onnx_reading`).
"""

import copy
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .image_reading import ImageSource
from .onnx_check import OnnxComparison, compare_readers, draw_check_words
from .onnx_graphs import OPSET, charset_fingerprint, has_fixed_width, write_graphs
from .onnx_reading import OnnxForConditionalGeneration, OnnxForTextRecognition
from .onnx_session import import_onnxruntime

# Words that are compared at least; drawn ones make up the number.
CHECKED_WORDS = 1000
CHECK_FILE = "onnx_check.json"


class OnnxExportError(ValueError):
    """A graph that does not read as its model does; `comparison` says where."""

    def __init__(self, message: str, comparison: OnnxComparison) -> None:
        super().__init__(message)
        self.comparison = comparison


def export_onnx(
    model: Any, processor: Any, folder: str | os.PathLike, words: Sequence[ImageSource] | None = None
) -> Path:
    """Write a recogniser as a folder of ONNX graphs.

    The model is written in float32 from a copy; it stays as it is. The axes of batch and width are dynamic,
    the width being a multiple of the patch size (of 4 pixels with a CNN), padding told by `pixel_mask`. With
    the `tps` rectifier the width is the nominal one.

    Args:
        model: `…ForTextRecognition` or `…ForConditionalGeneration` of either family.
        processor: its `TextRecognitionProcessor`.
        folder: where to; must not exist, or be empty.
        words: pictures to compare model and graph on; words drawn here make up `CHECKED_WORDS`.

    Returns:
        The folder.

    Raises:
        ImportError: when a library of the extra `export` is missing.
        FileExistsError: when the folder holds something.
        ValueError: when the model is no recogniser or does not fit the processor.
        OnnxExportError: when the graph reads a word differently (`onnx_check`). Nothing is left behind then.
    """
    folder = Path(folder).absolute()
    _refuse_missing_libraries()
    _refuse_unsuitable(model, processor)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; give a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        partial = Path(place) / "folder"
        partial.mkdir()
        write_graphs(model, partial, _metadata(model.config, processor.tokenizer.get_vocab()))
        reader_class = OnnxForConditionalGeneration if model.can_generate() else OnnxForTextRecognition
        config = copy.deepcopy(model.config)
        config.architectures, config.dtype = [reader_class.__name__], torch.float32
        for name in ("auto_map", "custom_pipelines"):  # of the model's own code
            config.__dict__.pop(name, None)
        config.save_pretrained(partial)
        if model.can_generate():
            model.generation_config.save_pretrained(partial)
        processor.save_pretrained(partial)
        processor.image_processor.save_pretrained(partial)
        comparison = _check(model, processor, partial, words or ())
        report = {**comparison.as_dict(), **_metadata(model.config, processor.tokenizer.get_vocab())}
        (partial / CHECK_FILE).write_text(
            json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        for path in partial.iterdir():
            path.chmod(0o644)  # some are written for their owner only
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    return folder


def read_check(folder: Path) -> dict[str, Any]:
    """Read what the check of an exported folder found."""
    return json.loads((folder / CHECK_FILE).read_text(encoding="utf-8"))


def _check(model: Any, processor: Any, folder: Path, words: Sequence[ImageSource]) -> OnnxComparison:
    """Compare the files as written with the model; refuse a difference."""
    graph = OnnxForConditionalGeneration if model.can_generate() else OnnxForTextRecognition
    vocabulary = processor.tokenizer.get_vocab()
    characters = [token for token in vocabulary if len(token) == 1]
    drawn = list(draw_check_words(characters, max(0, CHECKED_WORDS - len(words))))
    names = [str(word) if isinstance(word, str | Path) else f"picture {i}" for i, word in enumerate(words)]
    names += [f"drawn word {number}" for number in range(len(drawn))]
    original = copy.deepcopy(model).to("cpu", torch.float32).eval()
    reader = graph.from_pretrained(str(folder), providers=["CPUExecutionProvider"])
    comparison = compare_readers(original, reader, processor, [*words, *drawn], names)
    if not comparison.agrees:
        raise OnnxExportError(f"{comparison.complaint()} Nothing was written.", comparison)
    return comparison


def _metadata(config: Any, vocabulary: dict[str, int]) -> dict[str, str]:
    """Say in the files themselves what they are."""
    package = importlib.import_module(__package__ or "modeling_rcmstr")
    unit = config.patch_size
    width = str(config.image_size[1]) if has_fixed_width(config) else f"multiple of {unit}"
    return {
        "model_type": config.model_type,
        "decoder_type": config.decoder_type,
        "encoder_type": config.encoder_type,
        "charset_fingerprint": charset_fingerprint(vocabulary),
        "height": str(config.image_size[0]),
        "width": width,
        "opset": str(OPSET),
        "package": f"modeling_rcmstr {package.__version__}",
    }


def _refuse_missing_libraries() -> None:
    """Name what the export needs and is not there, before anything is done."""
    import_onnxruntime()
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"writing ONNX needs {name}, which cannot be imported ({error}); "
                "pip install 'modeling-rcmstr[export]'."
            ) from error
    if not hasattr(getattr(torch.onnx, "ops", None), "symbolic"):
        raise ImportError(
            f"writing ONNX needs PyTorch 2.8 or newer, this is {torch.__version__}; upgrade torch."
        )


def _refuse_unsuitable(model: Any, processor: Any) -> None:
    """Refuse what is no recogniser, lacks weights, or has another vocabulary."""
    config = getattr(model, "config", None)
    if not hasattr(model, "head") or getattr(config, "decoder_type", None) not in ("ctc", "attention"):
        raise ValueError(
            f"only recognisers can be exported (…ForTextRecognition, …ForConditionalGeneration), got "
            f"{type(model).__name__}."
        )
    untrained = sorted(getattr(model, "untrained_weights", ()))
    if untrained:
        raise ValueError(
            f"the model lacks {len(untrained)} of its weights ({untrained[0]}, …), which are random now; "
            "export a trained recogniser."
        )
    if config is None or len(processor.tokenizer.get_vocab()) != config.vocab_size:
        raise ValueError(
            f"the model has {None if config is None else config.vocab_size} classes and the tokenizer "
            f"{len(processor.tokenizer.get_vocab())}; give the processor of the model's own checkpoint."
        )
