"""Recognisers on ONNX Runtime, behind the same calls as PyTorch's: Auto classes, pipeline, `rcmstr read`.

A folder that `onnx_export` wrote names one of the two classes here in its config.json, so that
`pipeline("text-recognition", model=folder)` reads with it. What comes in and goes out are PyTorch's tensors;
`generate()` is the library's, with its beams, sampling and logits processors. ONNX Runtime itself is in
`onnx_session`.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, cached_file, logging

from .configuration_text_recognition import TextRecognitionConfig
from .encoder_cnn import valid_columns
from .modeling_text_recognition import ForConditionalGeneration
from .onnx_graphs import (
    CTC_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    STATE_NAMES,
    charset_fingerprint,
    graph_files,
    has_fixed_width,
)
from .onnx_session import GraphSession
from .recognition_heads import LSTMDecoderState, TextRecognitionOutput

VOCABULARY_FILE = "vocab.json"
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

logger = logging.get_logger(__name__)


class OnnxTextRecognitionModel(PreTrainedModel):
    """What the two readers share; `from_pretrained` gives the one that the folder's decoder needs.

    Args:
        config: configuration of the recogniser.
        paths: each graph's file, by name.
        num_threads: threads of the processor; None for as many as PyTorch uses.
        providers: ONNX Runtime's execution providers, for example `["CUDAExecutionProvider"]`; None for those
            of the model's device: CUDA's on a GPU, where the installed ONNX Runtime has it, and the CPU's.
    """

    config: TextRecognitionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _supports_sdpa = True

    def __init__(
        self,
        config: Any,
        paths: Mapping[str, Path],
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Open the graphs."""
        super().__init__(config)
        self.paths = dict(paths)
        self.num_threads = num_threads
        self._wanted_providers = None if providers is None else list(providers)
        self._device = torch.device("cpu")
        self.sessions: dict[str, GraphSession] = {}
        self._open()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        config: Any = None,
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open the graphs of a folder, or of a repository on the Hub.

        Args:
            pretrained_model_name_or_path: what `onnx_export` wrote.
            config: its configuration; read from there when None.
            num_threads: see the class, as the next.
            providers: see there.
            kwargs: of the library's, where the files are (`revision`, `token`, `cache_dir`, …); `dtype` and
                the like have no meaning for a graph and are ignored.

        Raises:
            ImportError: without ONNX Runtime.
            ValueError: when a file is no graph of this recogniser, or was exported with another charset.
            OSError: when a file is missing.
        """
        name = os.fspath(pretrained_model_name_or_path)
        options = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        if not isinstance(name, str):
            raise ValueError(f"the folder or repository must be text, got {name!r}.")
        if config is None:
            config = AutoConfig.from_pretrained(name, **options)
        wanted = OnnxForTextRecognition if config.decoder_type == "ctc" else OnnxForConditionalGeneration
        if cls not in (wanted, OnnxTextRecognitionModel):
            raise ValueError(
                f"{cls.__name__} does not read decoder_type={config.decoder_type!r}; use {wanted.__name__}, "
                "or OnnxTextRecognitionModel for either."
            )
        paths = {}
        for file in graph_files(config.decoder_type):
            paths[file] = Path(_find(name, file, options))
            # Weights above 2 GiB stand beside the graph, which finds them by itself.
            cached_file(
                name,
                f"{file}.data",
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **options,
            )
        model: Any = wanted(config, paths, num_threads, providers)
        vocabulary = cached_file(
            name, VOCABULARY_FILE, _raise_exceptions_for_missing_entries=False, **options
        )
        model.check_graphs(
            None if vocabulary is None else json.loads(Path(vocabulary).read_text(encoding="utf-8"))
        )
        model.name_or_path = name
        if model.can_generate():
            try:
                model.generation_config = GenerationConfig.from_pretrained(name, **options)
            except OSError:
                logger.info("no generation_config.json; generating by the configuration's own values")
            model.complete_generation_config()
        return model.eval()

    def check_graphs(self, vocabulary: Mapping[str, int] | None) -> None:
        """Compare what the files say of themselves with the configuration and the vocabulary.

        Raises:
            ValueError: when they do not belong together.
        """
        expected = {"model_type": self.config.model_type, "decoder_type": self.config.decoder_type}
        if vocabulary is not None:
            expected["charset_fingerprint"] = charset_fingerprint(vocabulary)
        for file, session in self.sessions.items():
            found = session.metadata
            wrong = [name for name, value in expected.items() if found.get(name) != value]
            if wrong:
                raise ValueError(
                    f"{self.paths[file]} does not belong to the files around it: its {wrong[0]} is "
                    f"{found.get(wrong[0])!r}, theirs {expected[wrong[0]]!r}; export the recogniser again "
                    "with `rcmstr export`."
                )

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Copy the graphs and the configuration to a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for file, path in self.paths.items():
            for source, name in ((path, file), (path.with_name(f"{path.name}.data"), f"{file}.data")):
                if source.exists() and not (folder / name).exists():
                    shutil.copyfile(source, folder / name)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        if self.can_generate():
            self.generation_config.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where results are put."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """What the graphs compute in."""
        return torch.float32

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's execution providers in use, the preferred one first."""
        return next(iter(self.sessions.values())).providers

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Move to a device; other precisions and memory formats mean nothing to a graph and are ignored."""
        places = [kwargs["device"]] if "device" in kwargs else [a for a in args if isinstance(a, str | int)]
        places += [argument for argument in args if isinstance(argument, torch.device)]
        if places and torch.device(places[0]) != self._device:
            self._device = torch.device(places[0])
            if self._wanted_providers is None:
                self._open()
        return self

    def _open(self) -> None:
        """Open a session for each graph."""
        self.sessions = {
            file: GraphSession(path, self._device, self.num_threads, self._wanted_providers)
            for file, path in self.paths.items()
        }

    def _read_pixels(self, file: str, pixel_values: Tensor, pixel_mask: Tensor | None) -> dict[str, Tensor]:
        """Run the graph that takes pixels.

        Raises:
            ValueError: for images or masks that the recogniser does not read, naming the rule.
        """
        config = self.config
        size = (config.num_channels, config.image_size[0])
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:3]) != size:
            raise ValueError(
                f"`pixel_values` must be floats (batch, {size[0]}, {size[1]}, width), got "
                f"{tuple(pixel_values.shape)}; prepare images with the checkpoint's image processor."
            )
        batch, _, height, width = pixel_values.shape
        tensors = {"pixel_values": pixel_values.float()}
        if has_fixed_width(config):
            if pixel_mask is not None or width != config.image_size[1]:
                raise ValueError(
                    f"this graph reads words {config.image_size[1]} pixels wide, without padding, got width "
                    f"{width}; its rectifier is made for one size."
                )
            return self.sessions[file].run(tensors)
        valid_columns(pixel_mask, config.patch_size, (batch, height, width))
        if pixel_mask is None:
            pixel_mask = torch.ones(batch, height, width, dtype=torch.long, device=pixel_values.device)
        return self.sessions[file].run({**tensors, "pixel_mask": pixel_mask.long()})


class OnnxForTextRecognition(OnnxTextRecognitionModel):
    """A CTC recogniser on ONNX Runtime."""

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> TextRecognitionOutput:
        """Score the characters of each frame.

        Args:
            pixel_values: (B, C, H, W) normalised images.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            kwargs: options of the library's loops that do not concern reading.

        Returns:
            `logits` (B, T, V) and `frame_mask` (B, T) or None.

        Raises:
            ValueError: for unusable images, and when a loss or the encoder's inner states are asked for.
        """
        _refuse_training(kwargs)
        results = self._read_pixels(CTC_FILE, pixel_values, pixel_mask)
        frame_mask = None if pixel_mask is None else results["frame_mask"]
        return TextRecognitionOutput(logits=results["logits"], frame_mask=frame_mask)


@dataclass
class OnnxEncoderOutput(ModelOutput):
    """What the attention decoder reads of a word.

    Args:
        last_hidden_state: (B, T, M) frames.
        projected: (B, T, hidden) projected frames.
        bias: (B, T) 0 for real frames and the lowest number for padded ones.
    """

    last_hidden_state: Tensor | None = None
    projected: Tensor | None = None
    bias: Tensor | None = None


class OnnxEncoder(nn.Module):
    """The part that `generate()` runs once."""

    main_input_name = "pixel_values"

    def __init__(self, model: "OnnxForConditionalGeneration") -> None:
        """Keep the model, without becoming a part of it twice."""
        super().__init__()
        self._read = model._read_pixels

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> OnnxEncoderOutput:
        """Encode (B, C, H, W) words."""
        results = self._read(ENCODER_FILE, pixel_values, pixel_mask)
        memory = results["memory"]
        bias = results.get("bias", memory.new_zeros(memory.shape[:2]))
        return OnnxEncoderOutput(memory, results["keys"], bias)


class OnnxForConditionalGeneration(OnnxTextRecognitionModel, GenerationMixin):
    """An attention recogniser on ONNX Runtime; `generate()` gives greedy search, beams and sampling."""

    _is_stateful = True

    complete_generation_config: Any = ForConditionalGeneration.complete_generation_config
    prepare_inputs_for_generation: Any = ForConditionalGeneration.prepare_inputs_for_generation

    def get_encoder(self, modality: str | None = None) -> nn.Module:  # noqa: ARG002
        """Return the part that `generate()` runs once."""
        return OnnxEncoder(self)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Say that the state between steps is the LSTM's, not a key-value cache."""
        return False

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: OnnxEncoderOutput | None = None,
        past_key_values: LSTMDecoderState | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Score the character that follows each decoder input.

        Args:
            pixel_values: (B, C, H, W) normalised images; not needed with `encoder_outputs`.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right.
            decoder_input_ids: (B, L) ids read so far, the start token first.
            encoder_outputs: what `get_encoder()` gave for these images.
            past_key_values: the decoder's state after the ids before `decoder_input_ids`.
            use_cache: return the state in `past_key_values`.
            output_attentions: return the attention over frames, one (B, 1, L, T) tensor in
                `cross_attentions`.
            kwargs: options of the library's loops that do not concern reading.

        Returns:
            `logits` (B, L, V), and what was asked for.

        Raises:
            ValueError: for unusable images, when there is nothing to decode, and when a loss or the encoder's
                inner states are asked for.
        """
        _refuse_training(kwargs)
        if decoder_input_ids is None:
            raise ValueError("give `decoder_input_ids` for scores, or call `generate()`.")
        if encoder_outputs is None:
            if pixel_values is None:
                raise ValueError("give `pixel_values`, or `encoder_outputs` of `get_encoder()`.")
            encoder_outputs = self.get_encoder()(pixel_values, pixel_mask)
        state = past_key_values if past_key_values is not None else self._start(encoder_outputs)
        logits, attentions = [], []
        for step in range(decoder_input_ids.shape[1]):
            tensors = {name: state.tensors[name] for name in STATE_NAMES}
            results = self.sessions[DECODER_FILE].run({**tensors, "input_ids": decoder_input_ids[:, step]})
            state.tensors.update(hidden=results["next_hidden"], cell=results["next_cell"])
            logits.append(results["logits"])
            attentions.append(results["attention"])
        state.length += decoder_input_ids.shape[1]
        return Seq2SeqLMOutput(
            logits=torch.stack(logits, dim=1),  # (B, L, V)
            past_key_values=state if use_cache else None,  # type: ignore[arg-type]
            cross_attentions=(torch.stack(attentions, dim=1)[:, None],) if output_attentions else None,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )

    def _start(self, encoded: OnnxEncoderOutput) -> LSTMDecoderState:
        """Begin a text."""
        memory, keys = encoded.last_hidden_state, encoded.projected
        assert memory is not None
        assert keys is not None
        zeros = memory.new_zeros(memory.shape[0], self.config.head_hidden_size)
        return LSTMDecoderState(zeros, zeros, memory, keys, encoded.bias)


def _refuse_training(options: Mapping[str, Any]) -> None:
    """Refuse what only the model itself can give, instead of leaving it out."""
    for name in ("labels", "output_hidden_states"):
        if options.get(name) is not None and options[name] is not False:
            raise ValueError(
                f"a graph only reads and has no `{name}`; use the checkpoint that it was exported from."
            )


def _find(name: str, file: str, options: Mapping[str, Any]) -> str:
    """Locate a file of a folder or repository, which must have it."""
    path = cached_file(name, file, **options)
    assert path is not None
    return path
