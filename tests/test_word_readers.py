import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from modeling_rcmstr import default_checkpoint
from tests.fake_peers import install_rapidocr, install_tesseract
from training.word_readers import PEERS, onnx_reader, open_reader, parse_tesseract_table, peer_reader


def coloured(blue: int, height: int = 32, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), (1, 2, blue), np.uint8)


def test_rapidocr_gets_blue_first_and_the_given_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install_rapidocr(monkeypatch)
    reader = peer_reader("rapidocr", threads=2, batch_size=16)
    assert reader.read([coloured(7), coloured(9)]) == ["7", "9"]
    assert reader.read([]) == []
    assert reader.name == "rapidocr 3.0"
    assert calls[0]["EngineConfig.onnxruntime.intra_op_num_threads"] == 2
    assert calls[0]["Rec.rec_batch_num"] == 16
    assert calls[1] == {"use_det": False, "use_cls": False, "use_rec": True}


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_tesseract_answers_in_the_order_of_the_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, threads: int
) -> None:
    """Also with more threads than words, with pages without a word, and with images it could not hold."""
    install_tesseract(monkeypatch, tmp_path)
    reader = peer_reader("tesseract", threads, 1)
    assert reader.name == "tesseract 9.8.7"
    images = [coloured(7), coloured(0), coloured(9, 1, 1), coloured(11), coloured(13)]
    assert reader.read(images) == ["blue 7", "", "blue 9", "blue 11", "blue 13"]
    assert reader.read([]) == []


def test_a_tesseract_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_tesseract(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="tesseract stopped with 1: no such language"):
        peer_reader("tesseract", 1, 1).read([coloured(255)])


def test_words_of_a_page_are_joined_and_quotes_are_text() -> None:
    header = "level\tpage_num\tconf\ttext"
    rows = ['5\t2\t90\t"to', "5\t2\t90\tbe", "1\t1\t-1\t", header, "5\t3\t90\t\u2028or"]
    assert parse_tesseract_table("\n".join([header, *rows]), 4) == ["", '"to be', "or", ""]


def test_a_missing_package_is_said_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "rapidocr", missing)
    with pytest.raises(ValueError, match="pip install rapidocr onnxruntime"):
        peer_reader("rapidocr", 1, 1)


def test_a_missing_runtime_of_graphs_is_said_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "onnxruntime", missing)
    with pytest.raises(ValueError, match=r"pip install 'modeling-rcmstr\[export\]'"):
        onnx_reader(default_checkpoint(), 1)


def test_a_missing_program_is_said_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="apt-get install tesseract-ocr"):
        peer_reader("tesseract", 1, 1)


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no peer is called 'easy'; known: rapidocr, tesseract"):
        peer_reader("easy", 1, 1)
    assert list(PEERS) == ["rapidocr", "tesseract"]


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        open_reader(tmp_path, 1)
