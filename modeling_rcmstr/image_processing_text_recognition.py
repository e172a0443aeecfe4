"""TextRecognitionImageProcessor: pictures of words become one batch of normalised pixels, with PIL and NumPy.

A word is stretched to one size, or keeps its aspect ratio at a height of 32 and is padded on the right to the
widest of its batch. Reading files and colour spaces is in `image_reading`; augmentation belongs to training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .image_reading import ImageSource, is_image_source, read_image

# Pillow warns of a decompression bomb above this many pixels, so a larger picture is refused before it is
# decoded.
MAX_IMAGE_PIXELS = 89_478_485
# A picture this many times larger than its target is first averaged over whole blocks (`reducing_gap` of
# Pillow).
REDUCING_FACTOR = 16
REDUCING_GAP = 4.0


class TextRecognitionImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments beside the library's.

    Args:
        keep_aspect_ratio: keep the shape of a word: height as in `size`, width in proportion; otherwise
            stretch to `size`.
        width_multiple: with `keep_aspect_ratio`, round the width to a multiple of this many pixels.
        min_width: narrowest word, in pixels, with `keep_aspect_ratio`.
        max_width: widest word, in pixels, with `keep_aspect_ratio`; a longer one is squeezed to it.
        max_image_pixels: refuse larger pictures before decoding them.
    """

    keep_aspect_ratio: bool
    width_multiple: int
    min_width: int
    max_width: int
    max_image_pixels: int


@dataclass(frozen=True)
class WordGeometry:
    """What size a word is resized to.

    Args:
        height: rows.
        width: columns, unless the aspect ratio is kept.
        keep_aspect_ratio: see `TextRecognitionImageProcessorKwargs`, as the rest.
        width_multiple: columns are a multiple of this.
        min_width: fewest columns.
        max_width: most columns.
    """

    height: int
    width: int
    keep_aspect_ratio: bool
    width_multiple: int
    min_width: int
    max_width: int

    def __post_init__(self) -> None:
        """Refuse what gives no size, or one that depends on the order of the rules."""
        if min(self.height, self.width, self.width_multiple, self.min_width) < 1:
            raise ValueError(f"`size`, `width_multiple` and `min_width` must be positive, got {self}.")
        if self.max_width < self.min_width:
            raise ValueError(
                f"`max_width` must be at least `min_width`, got {self.max_width} < {self.min_width}."
            )
        if self.keep_aspect_ratio and (
            self.min_width % self.width_multiple or self.max_width % self.width_multiple
        ):
            raise ValueError(
                f"`min_width` {self.min_width} and `max_width` {self.max_width} must be multiples of "
                f"`width_multiple` {self.width_multiple}."
            )

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that a picture of `height` x `width` pixels is resized to."""
        if not self.keep_aspect_ratio:
            return self.height, self.width
        steps = int(width / height * self.height / self.width_multiple + 0.5)
        return self.height, min(max(steps * self.width_multiple, self.min_width), self.max_width)


class TextRecognitionImageProcessor(PilBackend):
    """Read, resize, normalise and pad pictures of words.

    Pixels are `PIL.Image.resize`, then `(x / 255 - mean) / std` in float32; only pictures 16 and more times
    larger than their target in both directions are averaged over blocks first. Words of different width in
    one call are padded on the right with 0.0 (after normalisation) to the widest, and `pixel_mask` says
    where; without padding there is no mask.

    Args:
        kwargs: the library's image arguments and those of `TextRecognitionImageProcessorKwargs`; each is an
            attribute, is saved, and can be given to a call.

    Raises:
        ValueError: for arguments that contradict each other.
    """

    do_convert_rgb = True
    do_resize = True
    size = {"height": 32, "width": 128}
    keep_aspect_ratio = False
    width_multiple = 16
    min_width = 32
    max_width = 512
    max_image_pixels = MAX_IMAGE_PIXELS
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_pad = True
    input_data_format: str | None = None
    valid_kwargs = TextRecognitionImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._refuse_unsupported({name: getattr(self, name) for name in self._valid_kwargs_names})
        self.geometry()

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepare a batch; also called `preprocess`.

        Args:
            images: one picture, several in lists, or an array of several; see `image_reading`.
            args: none; for the library's signature.
            kwargs: arguments of the class that differ for this call, and `return_tensors`, "pt" or "np".

        Returns:
            What `batch_words` gives.

        Raises:
            ValueError: for a picture that cannot be read, or arguments that contradict each other.
            FileNotFoundError: for a path where nothing is.
            TypeError: for something that is not a picture, or an argument that does not exist.
        """
        return self.preprocess(images, *args, **kwargs)

    def geometry(self, **kwargs: Any) -> WordGeometry:
        """Collect the rules of sizes, from the attributes and from arguments of a call.

        Raises:
            ValueError: for rules that contradict each other, or a `size` that is not height and width.
        """
        size = kwargs.get("size", self.size)
        if not isinstance(size, SizeDict):
            size = SizeDict(**size)
        if not size.height or not size.width:
            raise ValueError(f"`size` must be {{'height': …, 'width': …}} in pixels, got {size}.")
        names = ("keep_aspect_ratio", "width_multiple", "min_width", "max_width")
        values = {name: kwargs.get(name, getattr(self, name)) for name in names}
        return WordGeometry(height=size.height, width=size.width, **values)

    def read_word(
        self, image: ImageSource, geometry: WordGeometry | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Read and resize one word; `batch_words` makes a batch of several.

        Args:
            image: anything that `image_reading` reads.
            geometry: what `geometry()` gave, to spare time in a loop.
            kwargs: `resample`, `do_resize`, `max_image_pixels`, `input_data_format` where they differ from
                the attributes, and `timeout` in seconds for a URL.

        Returns:
            (H, W, 3) uint8.

        Raises:
            ValueError: for what cannot be read; FileNotFoundError for a path where nothing is; TypeError for
                another type.
        """
        geometry = geometry or self.geometry(**kwargs)
        resizes = kwargs.get("do_resize", self.do_resize)
        layout = kwargs.get("input_data_format", self.input_data_format)
        word = read_image(
            image,
            max_image_pixels=kwargs.get("max_image_pixels", self.max_image_pixels),
            channels_last=None if layout is None else ChannelDimension(layout) == ChannelDimension.LAST,
            wanted_size=geometry.target_size if resizes else None,
            timeout=kwargs.get("timeout"),
        )
        if resizes:
            height, width = geometry.target_size(word.height, word.width)
            gap = REDUCING_GAP if min(word.height / height, word.width / width) >= REDUCING_FACTOR else None
            word = word.resize((width, height), kwargs.get("resample", self.resample), reducing_gap=gap)
        return np.asarray(word)

    def batch_words(
        self, words: Sequence[np.ndarray], return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Normalise words of one height and pad them to one width.

        Args:
            words: (H, W, 3) uint8 each.
            return_tensors: "pt", or None or "np" for NumPy.
            kwargs: the arguments of normalisation and padding where they differ from the attributes.

        Returns:
            `pixel_values` (B, 3, H, W) float32, and `pixel_mask` (B, H, W) int64, 1 for the word and 0 for
            padding, when a word is padded.

        Raises:
            ValueError: for no words, or words that do not fit together.
        """
        options = {name: kwargs.get(name, getattr(self, name)) for name in self._valid_kwargs_names}
        if not words:
            raise ValueError("there must be at least one image, got none; leave out empty batches.")
        heights, widths = {word.shape[0] for word in words}, [word.shape[1] for word in words]
        height, width = max(heights), max(widths)
        if options["pad_size"] is not None:
            height, width = options["pad_size"].height, options["pad_size"].width
        if heights != {height} or max(widths) > width or (min(widths) < width and not options["do_pad"]):
            raise ValueError(
                f"the images must be {height} pixels high and at most {width} wide, got heights "
                f"{sorted(heights)} and widths {min(widths)} to {max(widths)}; set `do_resize=True` and "
                "`do_pad=True`, and a `pad_size` that fits."
            )
        table = _value_table(options)
        pixel_values = np.zeros((len(words), 3, height, width), np.float32)
        for channel in range(3):
            for row, word in enumerate(words):
                pixel_values[row, channel, :, : widths[row]] = table[channel][word[..., channel]]
        data = {"pixel_values": pixel_values}
        if min(widths) < width:
            real = np.arange(width) < np.array(widths)[:, None]  # (B, W)
            data["pixel_mask"] = np.repeat(real[:, None], height, axis=1).astype(np.int64)
        return BatchFeature(data, tensor_type=return_tensors)

    def _preprocess_image_like_inputs(self, images: Any, *_: Any, **kwargs: Any) -> BatchFeature:
        """Do the work of `preprocess`, which has checked and completed the arguments."""
        self._refuse_unsupported(kwargs)
        geometry = self.geometry(**kwargs)
        words = [self.read_word(image, geometry, **kwargs) for image in list_images(images)]
        return self.batch_words(words, **kwargs)

    def _refuse_unsupported(self, options: dict[str, Any]) -> None:
        """Name the library's image arguments that have no meaning for words, instead of ignoring them."""
        if options.get("do_convert_rgb") is False or options.get("do_center_crop"):
            raise ValueError(
                "words are RGB and uncropped: `do_convert_rgb` must be True and `do_center_crop` False."
            )
        if options.get("data_format") not in (None, "channels_first", ChannelDimension.FIRST):
            raise ValueError(f"`data_format` must be channels_first, got {options['data_format']}.")


def list_images(images: Any) -> list[ImageSource]:
    """Flatten one picture, an array of several, or nested lists of them.

    Raises:
        TypeError: for something that is neither a picture nor holds pictures.
    """
    if is_image_source(images):
        return [images]
    if hasattr(images, "__iter__") or hasattr(images, "__getitem__"):
        return [image for entry in images for image in list_images(entry)]
    raise TypeError(
        "images must be a path, URL or base64 text, the bytes of a file, a PIL image, a NumPy array or a "
        f"torch tensor, or a list of these, got {type(images).__name__}."
    )


def _value_table(options: dict[str, Any]) -> np.ndarray:
    """Tabulate the normalised value of each byte and channel, (3, 256) float32, rounded like the library."""
    values = np.arange(256, dtype=np.float64)
    table = np.repeat(values[None], 3, axis=0)
    if options["do_rescale"]:
        table = (table * options["rescale_factor"]).astype(np.float32)
    table = table.astype(np.float32)
    if options["do_normalize"]:
        mean, std = (_per_channel(name, options[name]) for name in ("image_mean", "image_std"))
        if not np.all(std > 0):
            raise ValueError(f"`image_std` must be positive, got {options['image_std']}.")
        table = (table - mean) / std
    return table


def _per_channel(name: str, value: float | Sequence[float]) -> np.ndarray:
    """Bring one number, or one per channel, to (3, 1) float32."""
    numbers = np.asarray(value, dtype=np.float32).reshape(-1)
    if len(numbers) not in (1, 3):
        raise ValueError(f"`{name}` must be one number or one per channel (3), got {value}.")
    return np.broadcast_to(numbers, 3)[:, None]
