"""TextRecognitionPipeline: every input, order and batches, streams, bad items, options, real models,
saving."""

import base64
import itertools
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pipelines.pt_utils import KeyDataset

from modeling_rcmstr.image_processing_text_recognition import TextRecognitionImageProcessor
from modeling_rcmstr.pipeline_text_recognition import TextRecognitionPipeline, batches_of_like_width
from modeling_rcmstr.processing_text_recognition import TextRecognitionProcessor
from modeling_rcmstr.recognition_heads import TextRecognitionOutput
from modeling_rcmstr.tokenization_text_recognition import CharacterTokenizer

CHARACTERS = CharacterTokenizer().charset


class ShadeReader(PreTrainedModel):
    """A CTC recogniser that names the shade of each 4 pixels of width by a character, and keeps the shapes of
    its batches."""

    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.full((), 200.0))
        self.shapes: list[tuple[int, ...]] = []
        self.post_init()

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> TextRecognitionOutput:
        self.shapes.append(tuple(pixel_values.shape))
        shade = pixel_values.float().unfold(-1, 4, 4).mean((1, 2, 4)) / 2 + 0.5  # (B, T), 0 to 1
        centers = (torch.arange(36) + 0.5) / 36
        logits = -self.scale.float() * (shade[..., None] - centers).abs()  # (B, T, 36)
        logits = torch.cat([torch.full_like(logits[..., :1], -999.0), logits], dim=-1)
        frame_mask = None if pixel_mask is None else pixel_mask[:, 0, ::4] > 0
        return TextRecognitionOutput(logits=logits.to(pixel_values.dtype), frame_mask=frame_mask)


def shade(index: int, width: int = 128) -> Image.Image:
    """A picture of one shade, which `ShadeReader` reads as `CHARACTERS[index % 36]`."""
    return Image.new("L", (width, 32), round((index % 36 + 0.5) / 36 * 255))


def names(answers: Any) -> str:
    """The texts of answers, joined; "!" for an error."""
    return "".join(answer["text"] or "!" for answer in answers)


@pytest.fixture
def reader(tiny_config: Callable[..., Any]) -> TextRecognitionPipeline:
    """A pipeline around `ShadeReader` that keeps the aspect ratio of words."""
    processor = TextRecognitionProcessor(
        TextRecognitionImageProcessor(keep_aspect_ratio=True), CharacterTokenizer()
    )
    return TextRecognitionPipeline(ShadeReader(tiny_config()).eval(), processor=processor, device="cpu")


def test_every_kind_of_picture_has_one_answer(reader: TextRecognitionPipeline, tmp_path: Path) -> None:
    image = shade(7)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    path = tmp_path / "word.png"
    path.write_bytes(content)
    array = np.asarray(image)
    for picture in (
        path,
        str(path),
        content,
        base64.b64encode(content).decode(),
        image,
        array,
        np.stack([array] * 3, axis=-1),
        torch.from_numpy(array.copy())[None],
        {"bytes": content, "path": None},
        {"image": image, "text": "7"},
    ):
        answer = reader(picture)
        assert set(answer) == {"text", "score"}
        assert answer["text"] == "7"
        assert isinstance(answer["score"], float)
        assert 0.5 < answer["score"] <= 1


def test_several_pictures_have_a_list_of_answers(reader: TextRecognitionPipeline) -> None:
    images = [shade(index) for index in range(5)]
    arrays = np.stack([np.asarray(image) for image in images])[..., None]
    for pictures in (images, tuple(images), arrays, torch.from_numpy(arrays.copy())):
        answers = reader(pictures)
        assert isinstance(answers, list)
        assert names(answers) == "01234"
    assert reader([]) == []
    assert reader(()) == []


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_answers_come_in_the_order_of_the_input(reader: TextRecognitionPipeline, batch_size: int) -> None:
    widths = np.random.default_rng(0).integers(16, 400, 90).tolist()
    images = [shade(index, width) for index, width in enumerate(widths)]
    expected = "".join(CHARACTERS[index % 36] for index in range(90))
    for inputs in (images, iter(images), (image for image in images)):
        assert names(reader(inputs, batch_size=batch_size)) == expected


def test_words_of_like_width_share_a_batch(reader: TextRecognitionPipeline) -> None:
    widths = [32, 64, 128, 512] * 8
    reader([shade(0, width) for width in widths], batch_size=8)
    assert sorted(shape[3] for shape in reader.model.shapes) == [32, 64, 128, 512]
    assert {shape[0] for shape in reader.model.shapes} == {8}


def test_a_list_is_read_in_batches_and_a_stream_one_by_one_unless_told(
    reader: TextRecognitionPipeline,
) -> None:
    images = [shade(index) for index in range(40)]
    reader(images)
    assert [shape[0] for shape in reader.model.shapes] == [32, 8]
    reader.model.shapes.clear()
    list(reader(iter(images)))
    assert [shape[0] for shape in reader.model.shapes] == [1] * 40


def test_a_stream_is_read_as_it_is_asked_for(reader: TextRecognitionPipeline) -> None:
    asked = 0

    def stream() -> Iterator[Image.Image]:
        nonlocal asked
        for index in itertools.count():
            asked += 1
            yield shade(index)

    answers = reader(stream())
    assert asked == 0
    assert next(answers)["text"] == "0"
    assert asked == 1
    assert next(answers)["text"] == "1"
    assert asked == 2
    answers = reader(stream(), batch_size=4)
    next(answers)
    assert asked == 2 + 4 * 8
    assert names(itertools.islice(answers, 40)) == "".join(CHARACTERS[index % 36] for index in range(1, 41))


def make_dataset(images: list[Any]) -> Dataset:
    """A dataset of encoded pictures; bytes are taken as they are."""
    rows = []
    for image in images:
        buffer = BytesIO(image) if isinstance(image, bytes) else BytesIO()
        if not isinstance(image, bytes):
            image.save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": ImageFeature(), "text": Value("string")})
    return Dataset.from_dict({"image": rows, "text": ["x"] * len(rows)}, features=features)


def test_a_dataset_its_column_and_a_key_of_it_are_read_lazily(reader: TextRecognitionPipeline) -> None:
    dataset = make_dataset([shade(index) for index in range(10)])
    for inputs in (
        dataset,
        dataset["image"],
        KeyDataset(dataset, "image"),
        dataset.cast_column("image", ImageFeature(decode=False)),
    ):
        answers = reader(inputs, batch_size=4)
        assert not isinstance(answers, list)
        assert len(answers) == 10
        assert names(answers) == names(answers) == "0123456789"
    assert names(reader(dataset.to_iterable_dataset())) == "0123456789"


def test_a_bad_item_is_an_error_that_says_which(reader: TextRecognitionPipeline) -> None:
    with pytest.raises(FileNotFoundError, match="no file 'absent.png'") as caught:
        reader([shade(0), shade(1), "absent.png"])
    if hasattr(caught.value, "__notes__"):
        assert "item 2 of the input" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="not an image"):
        reader(b"junk")
    with pytest.raises(TypeError, match="got int"):
        reader(3)
    with pytest.raises(TypeError, match="got int"):
        reader([3])


def test_a_bad_item_never_loses_the_others(reader: TextRecognitionPipeline, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    bad = [
        "absent.png",
        b"junk",
        tmp_path / "empty.png",
        np.full((8, 8), np.nan),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8), np.uint8),
        Image.new("1", (20000, 20000)),
        None,
        [],
        tmp_path,
    ]
    inputs = [item for index, broken in enumerate(bad) for item in (shade(index), broken)]
    answers = reader(inputs, on_error="return", batch_size=3)
    assert names(answers) == "".join(f"{index}!" for index in range(10))
    for answer in answers[1::2]:
        assert set(answer) == {"text", "score", "error"}
        assert (answer["text"], answer["score"]) == (None, 0.0)
        assert len(answer["error"]) > 10
    assert reader("absent.png", on_error="return", return_characters=True)["characters"] == []


def test_the_smallest_the_longest_and_the_flattest_words_have_answers(
    reader: TextRecognitionPipeline,
) -> None:
    sizes = [(1, 1), (1, 5000), (5000, 1), (2, 3)]
    answers = reader([Image.new("RGB", size) for size in sizes], on_error="return")
    assert names(answers) == "0000"
    assert max(shape[3] for shape in reader.model.shapes) == 512


def test_a_row_that_cannot_be_decoded_costs_itself_alone(reader: TextRecognitionPipeline) -> None:
    dataset = make_dataset([shade(0), b"junk", shade(2)])
    assert names(reader(dataset, on_error="return")) == "0!2"
    assert names(reader(dataset["image"], on_error="return")) == "0!2"
    with pytest.raises(Exception, match="identify image"):
        list(reader(dataset))


def test_a_stream_that_breaks_gives_what_it_gave_before(reader: TextRecognitionPipeline) -> None:
    def stream() -> Iterator[Image.Image]:
        yield shade(0)
        yield shade(1)
        raise RuntimeError("the camera was unplugged")

    answers = reader(stream(), batch_size=4, on_error="return")
    assert names(itertools.islice(answers, 2)) == "01"
    with pytest.raises(RuntimeError, match="unplugged"):
        next(answers)


def test_threads_change_nothing_but_time(reader: TextRecognitionPipeline) -> None:
    images: list[Any] = [shade(index, 32 + 16 * (index % 5)) for index in range(30)]
    images[4] = "absent.png"
    assert reader(images, num_workers=3, on_error="return") == reader(images, on_error="return")


def test_characters_come_on_request(reader: TextRecognitionPipeline) -> None:
    image = Image.new("L", (128, 32), 0)
    image.paste(255, (64, 0, 128, 32))
    (first, second) = reader(image, return_characters=True)["characters"]
    assert (first["character"], second["character"]) == ("0", "z")
    assert first["end"] == second["start"] == pytest.approx(0.5, abs=0.02)


def test_spans_do_not_depend_on_the_batch(reader: TextRecognitionPipeline) -> None:
    images = []
    for width in (32, 64, 128, 400):
        image = Image.new("L", (width, 32), 0)
        image.paste(255, (width // 2, 0, width, 32))
        images.append(image)
    together = reader(images, return_characters=True)
    assert together == [reader(image, return_characters=True) for image in images]


def test_only_allowed_characters_are_read(reader: TextRecognitionPipeline) -> None:
    assert reader(shade(35))["text"] == "z"
    assert reader(shade(35), allowed_characters="0123456789")["text"] == "9"
    with pytest.raises(ValueError, match="'é' outside"):
        reader(shade(35), allowed_characters="é")


def test_options_of_the_pipeline_hold_until_a_call_changes_them(tiny_config: Callable[..., Any]) -> None:
    pipe = TextRecognitionPipeline(
        ShadeReader(tiny_config()).eval(),
        tokenizer=CharacterTokenizer(),
        image_processor=TextRecognitionImageProcessor(),
        device="cpu",
        batch_size=2,
        on_error="return",
        return_characters=True,
        allowed_characters="abc",
    )
    answers = pipe([shade(35), "absent.png", shade(0)])
    assert names(answers) == "c!a"
    assert all("characters" in answer for answer in answers)
    assert pipe.model.shapes == [(2, 3, 32, 128)]
    assert pipe(shade(35), allowed_characters="xyz", return_characters=False)["text"] == "z"
    with pytest.raises(FileNotFoundError):
        pipe("absent.png", on_error="raise")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"return_character": True}, TypeError, "return_character"),
        ({"on_error": "skip"}, ValueError, "must be 'raise' or 'return'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"generate_kwargs": {"num_beams": 2}}, ValueError, "reads with CTC"),
    ],
)
def test_unusable_options_are_refused(
    reader: TextRecognitionPipeline, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reader(shade(0), **arguments)


def test_a_pipeline_needs_a_processor(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="give the pipeline a `processor`"):
        TextRecognitionPipeline(ShadeReader(tiny_config()), device="cpu")


def test_the_librarys_three_steps_give_the_same_answer(reader: TextRecognitionPipeline) -> None:
    image = shade(11)
    assert reader.postprocess(reader.forward(reader.preprocess(image))) == reader(image)
    assert reader.predict([image]) == reader.transform([image]) == reader([image])


def test_batches_end_when_full_or_at_a_new_width_when_a_quarter_full() -> None:
    widths = dict(enumerate([64, 32, 64, 32, 32, 96, 64, 64, 64, 128]))
    assert batches_of_like_width(widths, 4) == [[1, 3, 4], [0, 2, 6, 7], [8], [5], [9]]
    assert batches_of_like_width(widths, 8) == [[1, 3, 4], [0, 2, 6, 7, 8], [5, 9]]
    assert batches_of_like_width({}, 4) == []
