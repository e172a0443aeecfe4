"""Fixtures that many tests share: tiny configurations of every combination, eight drawn words, one seed.

Tests run offline and leave nothing behind: the libraries' caches lie in a folder that goes with the run.
"""

import atexit
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

# Read when the libraries are first imported, so before them, and inherited by the tests' own subprocesses.
_CACHE = tempfile.mkdtemp(prefix="modeling_rcmstr_tests_")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=_CACHE, TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
if sys.platform == "linux":
    # Processes of a test meet on this machine, whatever its name resolves to.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
# Networks this small gain nothing from many threads, and lose all where a machine lends fewer than it shows.
THREADS = min(2, os.cpu_count() or 1)
os.environ["OMP_NUM_THREADS"] = str(THREADS)
# A thread that waits for another sleeps. Spinning, two threads on a core that others use as well take twenty
# times as long.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch  # noqa: E402

torch.set_num_threads(THREADS)
# Threads of a library do not live on in a forked worker, which would wait for them.
cv2.setNumThreads(0)

FAMILIES = ("rcmstr", "persec")
ENCODERS = ("cnn", "vit")
DECODERS = ("ctc", "attention")

# Doubled letters (CTC needs a blank between them), digits, thin and wide letters, two to seven characters.
EIGHT_WORDS = ("book", "exit", "42nd", "milk", "hello", "wow", "up", "zigzag7")

TINY_SIZES: dict[str, Any] = {
    "image_size": (32, 128),
    "embedding_sizes": (8, 16),
    "hidden_sizes": (16, 24, 32, 32),
    "depths": (1, 1, 1, 1),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "encoder_bilstm_size": 32,
    "head_hidden_size": 32,
    "max_text_length": 8,
}
NUM_CHARACTERS = 36


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Start every test from one state of the global generators; the value is for generators of its own."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    """Each encoder in turn."""
    return request.param


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    """Each decoder in turn."""
    return request.param


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """Make the configuration of a small model: `tiny_config(family, encoder, decoder, **fields)`.

    The vocabulary is that of the charset "alphanumeric-36": 36 characters after `<pad>` (CTC) or `<pad>`,
    `<s>` and `</s>` (attention).
    """
    from modeling_rcmstr.configuration_persec import PerSecConfig
    from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig

    classes = {"rcmstr": RCMSTRConfig, "persec": PerSecConfig}

    def make(family: str = "rcmstr", encoder: str = "cnn", decoder: str = "ctc", **fields: Any) -> Any:
        num_special_tokens = {"ctc": 1, "attention": 3}[decoder]
        named = {"encoder_type": encoder, "decoder_type": decoder}
        sizes = {**TINY_SIZES, "vocab_size": NUM_CHARACTERS + num_special_tokens}
        return classes[family](**{**sizes, **named, **fields})

    return make


def draw_word(text: str, size: tuple[int, int] = (32, 128)) -> Image.Image:
    """Draw a word in Pillow's own font, dark on light; `size` is (height, width) in pixels."""
    height, width = size
    shade = random.Random(text)
    image = Image.new("RGB", (width, height), tuple(shade.randint(200, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=height - 8)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    corner = ((width - (right - left)) / 2 - left, (height - (bottom - top)) / 2 - top)
    draw.text(corner, text, font=font, fill=tuple(shade.randint(0, 80) for _ in range(3)))
    return image


@pytest.fixture(scope="session")
def eight_words() -> list[tuple[Image.Image, str]]:
    """Eight words of letters and digits as (32x128 RGB image, text); no font of the system is needed."""
    return [(draw_word(text), text) for text in EIGHT_WORDS]


@pytest.fixture(scope="session")
def word_drawer() -> Callable[..., Image.Image]:
    """Draw any word at any size: `word_drawer(text, (height, width))`."""
    return draw_word


@pytest.fixture(scope="session")
def good_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The font that Pillow carries, as a file."""
    path = tmp_path_factory.mktemp("fonts") / "aileron.ttf"
    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    path.write_bytes(font.font_bytes)
    return path


@pytest.fixture(scope="session")
def accented_font(good_font: Path) -> Path:
    """The same font, drawing some of its signs where others have ä, ö, ü, ß, é and €."""
    path = good_font.with_name("accented.ttf")
    font = TTFont(good_font)
    names = font.getBestCmap()
    for table in font["cmap"].tables:
        if table.isUnicode():
            pairs = zip("äöüßé€", "@%&#+$", strict=True)
            table.cmap.update({ord(character): names[ord(sign)] for character, sign in pairs})
    for record in font["name"].names:
        if record.nameID in (1, 16):
            record.string = "Accented"
    font.save(path)
    return path


@pytest.fixture
def restored_process() -> Iterator[None]:
    """A run sets signal handlers, threads and a number mode; the other tests want theirs back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
