"""TextRecognitionPipeline: pictures of words in any form, text and confidence back, in order.

A window of words is read ahead, sorted by width and cut into batches, so that little is padded; a word's
answer does not depend on the batch it was in. What a picture may be is said in `image_reading`, what an
answer means in `processing_text_recognition`.
"""

import importlib.resources
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .image_reading import ImageSource, is_image_source
from .processing_text_recognition import TextRecognitionProcessor

DEFAULT_BATCH_SIZE = 32
# Words are sorted by width within this many batches.
BATCHES_PER_WINDOW = 8


def default_checkpoint() -> Path:
    """Locate the folder of the recogniser that comes with the package."""
    return Path(str(importlib.resources.files(__package__ or __name__).joinpath("checkpoints", "default")))


@dataclass(frozen=True)
class _Failure:
    """An item that could not be read, and why."""

    error: Exception


@dataclass(frozen=True)
class _Job:
    """How one call reads: the library's three sets of arguments, and those of the loop."""

    preprocess: dict[str, Any]
    forward: dict[str, Any]
    postprocess: dict[str, Any]
    batch_size: int
    num_workers: int
    returns_errors: bool


class TextRecognitionPipeline(Pipeline):
    """Read words: `pipeline("text-recognition")("word.png")` gives `{"text": "word", "score": 0.98}`.

    Give one picture for one answer, a list or tuple (or an array of several pictures) for a list of answers,
    and anything else that can be iterated (a generator, a dataset, a column of one) for answers that come as
    they are asked for. A row of a dataset may be a dictionary with the picture under "image".

    Args:
        args: the model, and what else `Pipeline` takes by position.
        kwargs: the arguments of `Pipeline`, among them `processor` (or `tokenizer` and `image_processor`),
            `device`, `batch_size` (32 for lists and datasets, 1 for generators) and `num_workers` (threads
            that read pictures; 0 for none), and of `_sanitize_parameters`; those of reading can be given to
            each call too.

    Raises:
        ValueError: without a processor, and for arguments that do not fit the model.
    """

    # A flag that is not set makes `pipeline()` ask on a terminal whether to trust the folder.
    _load_processor: bool | None = True  # type: ignore[assignment]
    _load_tokenizer: bool | None = False  # type: ignore[assignment]
    _load_image_processor: bool | None = False  # type: ignore[assignment]
    _load_feature_extractor: bool | None = False  # type: ignore[assignment]
    _load_video_processor: bool | None = False  # type: ignore[assignment]

    model: Any
    processor: Any
    tokenizer: Any
    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        untrained = sorted(getattr(self.model, "untrained_weights", ()))
        if untrained:
            raise ValueError(
                f"the checkpoint {self.model.name_or_path!r} lacks {len(untrained)} of the weights that "
                f"reading needs ({untrained[0]}, …), which are random now; give a trained recogniser."
            )
        if self.processor is None:
            if self.tokenizer is None or self.image_processor is None:
                raise ValueError(
                    "give the pipeline a `processor`, or a `tokenizer` and an `image_processor`."
                )
            self.processor = TextRecognitionProcessor(self.image_processor, self.tokenizer)
        self.tokenizer, self.image_processor = self.processor.tokenizer, self.processor.image_processor
        # Checkpoints are stored in half precision, which a CPU computes slowly or not at all.
        if (
            self.device.type == "cpu"
            and self.model.dtype == torch.float16
            and kwargs.get("dtype", "auto") == "auto"
        ):
            self.model.float()
        # Convolutions run about a sixth faster on a CPU, and on tensor cores, with channels innermost.
        self.model.to(memory_format=torch.channels_last)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        return_characters: bool | None = None,
        allowed_characters: str | None = None,
        on_error: str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Sort the arguments of reading.

        Args:
            return_characters: also give "characters": each with its score and horizontal span.
            allowed_characters: the only characters that may be read, for example "0123456789".
            on_error: "raise", or "return" to answer a picture that cannot be read with its "error", a text of
                None and a score of 0.0, and go on.
            generate_kwargs: arguments of `generate()` for an attention recogniser, for example {"num_beams":
                5}.
            timeout: seconds to wait for a URL.

        Returns:
            Arguments of `preprocess`, `_forward` and `postprocess`.
        """
        if on_error not in (None, "raise", "return"):
            raise ValueError(f"`on_error` must be 'raise' or 'return', got {on_error!r}.")
        preprocess = {"timeout": timeout, "on_error": on_error}
        forward = {
            "allowed_characters": allowed_characters,
            "generate_kwargs": generate_kwargs,
            "return_characters": return_characters,
        }
        postprocess = {"allowed_characters": allowed_characters, "return_characters": return_characters}
        given = [
            {name: value for name, value in part.items() if value is not None}
            for part in (preprocess, forward, postprocess)
        ]
        return given[0], given[1], given[2]

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> Any:
        """Read one picture, or several.

        Args:
            inputs: a picture, or something that holds pictures; see the class.
            batch_size: words that the model reads at once. A generator is read 8 batches ahead, or not at all
                with 1.
            num_workers: threads that read pictures.
            kwargs: arguments of `_sanitize_parameters` for this call.

        Returns:
            {"text", "score"} of one picture; a list of these; or an iterator over them. With
            `return_characters` also "characters", as `post_process_text_recognition` describes them.
        """
        single = is_image_source(inputs)
        if not single and not hasattr(inputs, "__iter__") and not hasattr(inputs, "__getitem__"):
            raise TypeError(f"give a picture or something that holds pictures, got {type(inputs).__name__}.")
        if batch_size is None:
            batch_size = self._batch_size
        if batch_size is None:
            batch_size = DEFAULT_BATCH_SIZE if isinstance(inputs, Sized) else 1
        job = self._plan(batch_size, self._num_workers if num_workers is None else num_workers, kwargs)
        if single:
            return next(self._read([inputs], job))
        if isinstance(inputs, list | tuple | np.ndarray | torch.Tensor):
            return list(self._read(inputs, job))
        return _LazyAnswers(self, inputs, job) if isinstance(inputs, Sized) else self._read(inputs, job)

    def get_inference_context(self) -> Any:
        """Run the model without any record for gradients."""
        return torch.inference_mode

    def preprocess(  # type: ignore[override]
        self, input_: ImageSource, timeout: float | None = None
    ) -> Any:
        """Make a batch of one picture."""
        word = self.image_processor.read_word(_picture(input_), timeout=timeout)
        return self.image_processor.batch_words([word], return_tensors="pt")

    def _forward(  # type: ignore[override]
        self,
        input_tensors: Any,
        allowed_characters: str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        return_characters: bool = False,
    ) -> dict[str, Any]:
        """Run the model on a batch; keep what `postprocess` needs."""
        pixel_values = input_tensors["pixel_values"].to(self.model.dtype)
        pixel_mask = input_tensors.get("pixel_mask")
        # Also without padding, the mask tells `postprocess` the width of the batch; all its entries share one
        # number.
        width = pixel_values.new_ones(1, dtype=torch.long).expand(
            *pixel_values.shape[:1], *pixel_values.shape[2:]
        )
        if self.model.can_generate():
            options = self._generation_options(allowed_characters, generate_kwargs or {})
            outputs = self.model.generate(
                pixel_values=pixel_values,
                pixel_mask=pixel_mask,
                return_dict_in_generate=True,
                output_scores=True,
                output_attentions=return_characters,
                **options,
            )
            kept = ["sequences", "scores", "beam_indices", "cross_attentions"]
        elif generate_kwargs:
            raise ValueError(
                "`generate_kwargs` are for attention recognisers, and this model reads with CTC; leave them "
                "out."
            )
        else:
            outputs = self.model(pixel_values=pixel_values, pixel_mask=pixel_mask)
            kept = ["logits", "frame_mask"]
        return {
            "pixel_mask": width if pixel_mask is None else pixel_mask,
            **{name: outputs.get(name) for name in kept},
        }

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: dict[str, Any],
        allowed_characters: str | None = None,
        return_characters: bool = False,
    ) -> dict[str, Any]:
        """Answer for a batch of one."""
        return self._answers(model_outputs, allowed_characters, return_characters)[0]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model, processor and the pipeline's own code."""
        # The registration's default model is a path on this machine, which must not get into config.json.
        registered = getattr(type(self), "_registered_impl", {})
        self._registered_impl = {
            task: {name: value for name, value in entry.items() if name != "default"}
            for task, entry in registered.items()
        }
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _generation_options(
        self, allowed_characters: str | None, generate_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Complete the arguments of `generate()`."""
        options = dict(generate_kwargs)
        if options.get("num_return_sequences", 1) != 1:
            raise ValueError(
                "`num_return_sequences` must be 1, one answer per picture, got "
                f"{options['num_return_sequences']}; call `model.generate` for more."
            )
        if allowed_characters is not None:
            allowed = {self.tokenizer.eos_token_id, *self.tokenizer.character_ids(allowed_characters)}
            suppressed = set(range(self.tokenizer.vocab_size)) - allowed
            options["suppress_tokens"] = sorted(suppressed | set(options.get("suppress_tokens") or ()))
        return options

    def _plan(self, batch_size: int, num_workers: int | None, arguments: dict[str, Any]) -> _Job:
        """Join the arguments of the pipeline with those of a call."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        joined = [
            {**mine, **given} for mine, given in zip(own, self._sanitize_parameters(**arguments), strict=True)
        ]
        on_error = joined[0].pop("on_error", "raise")
        return _Job(joined[0], joined[1], joined[2], batch_size, num_workers or 0, on_error == "return")

    def _read(self, inputs: Iterable[Any], job: _Job) -> Iterator[dict[str, Any]]:
        """Answer in the order of the input, a window of words at a time."""
        threads = ThreadPoolExecutor(job.num_workers) if job.num_workers > 0 else nullcontext()
        geometry = self.image_processor.geometry()

        def read_word(item: Any) -> np.ndarray | _Failure:
            if isinstance(item, _Failure):
                return item
            try:
                return self.image_processor.read_word(_picture(item), geometry, **job.preprocess)
            except Exception as error:
                return _Failure(error)

        count = 0
        with threads as pool:
            # A batch of one is never padded, so nothing is gained by reading ahead.
            window_size = 1 if job.batch_size == 1 else job.batch_size * BATCHES_PER_WINDOW
            for items in _windows(_items(inputs), max(window_size, job.num_workers)):
                words = list(pool.map(read_word, items) if pool is not None else map(read_word, items))
                for index, word in enumerate(words):
                    if isinstance(word, _Failure) and not job.returns_errors:
                        raise _with_place(word.error, count + index)
                yield from self._answer_window(words, job)
                count += len(words)

    def _answer_window(self, words: Sequence[np.ndarray | _Failure], job: _Job) -> list[dict[str, Any]]:
        """Read the words of a window in batches of like width."""
        answers: list[dict[str, Any]] = [{} for _ in words]
        widths = {index: word.shape[1] for index, word in enumerate(words) if isinstance(word, np.ndarray)}
        for rows in batches_of_like_width(widths, job.batch_size):
            batch = self.image_processor.batch_words([words[row] for row in rows], return_tensors="pt")
            outputs = self.forward(batch, **job.forward)
            for row, answer in zip(rows, self._answers(outputs, **job.postprocess), strict=True):
                answers[row] = answer
        for answer, word in zip(answers, words, strict=True):
            if isinstance(word, _Failure):
                answer.update(text=None, score=0.0, error=str(word.error) or type(word.error).__name__)
                if job.postprocess.get("return_characters"):
                    answer["characters"] = []
        return answers

    def _answers(
        self, outputs: dict[str, Any], allowed_characters: str | None = None, return_characters: bool = False
    ) -> list[dict[str, Any]]:
        """Turn the outputs of a batch into answers."""
        outputs = dict(outputs)
        mask = outputs.pop("pixel_mask")
        # `generate()` has kept to the allowed characters already.
        allowed = allowed_characters if outputs.get("sequences") is None else None
        answers = self.processor.post_process_text_recognition(outputs, mask, allowed_characters=allowed)
        if not return_characters:
            for answer in answers:
                del answer["characters"]
        return answers


def batches_of_like_width(widths: Mapping[int, int], batch_size: int) -> list[list[int]]:
    """Deal words (number → width) into batches of numbers, narrow ones first, so that little is padded.

    A batch ends when it is full, or at a new width when it is a quarter full: padding costs more than that.
    """
    batches: list[list[int]] = []
    for word in sorted(widths, key=lambda number: widths[number]):
        current = batches[-1] if batches else []
        is_wider = bool(current) and widths[word] != widths[current[-1]]
        if not current or len(current) == batch_size or (is_wider and 4 * len(current) >= batch_size):
            batches.append([])
        batches[-1].append(word)
    return batches


class _LazyAnswers:
    """Answers for a dataset, read while they are iterated; of the dataset's length."""

    def __init__(self, pipeline: TextRecognitionPipeline, inputs: Any, job: _Job) -> None:
        self.pipeline, self.inputs, self.job = pipeline, inputs, job

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.pipeline._read(self.inputs, self.job)


def _picture(item: Any) -> ImageSource:
    """Take the picture out of a row of a dataset."""
    return item["image"] if isinstance(item, Mapping) and "image" in item else item


def _items(inputs: Any) -> Iterator[Any]:
    """Iterate, by index where there is one: then an item that cannot be decoded costs itself alone."""
    if (
        isinstance(inputs, list | tuple)
        or not isinstance(inputs, Sized)
        or not hasattr(inputs, "__getitem__")
    ):
        yield from inputs
        return
    for index in range(len(inputs)):
        try:
            item = inputs[index]
        except Exception as error:
            item = _Failure(error)
        yield item


def _windows(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Cut into lists of `size`; what was read before the source broke comes before its error."""
    window: list[Any] = []
    try:
        for item in items:
            window.append(item)
            if len(window) == size:
                yield window
                window = []
    except Exception:
        if window:
            yield window
        raise
    if window:
        yield window


def _with_place(error: Exception, index: int) -> Exception:
    """Note which item failed, where Python can (3.11)."""
    if hasattr(error, "add_note"):
        error.add_note(f"while reading item {index} of the input; `on_error='return'` goes on without it")
    return error
