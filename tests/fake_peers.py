"""Stand-ins for the peers that the benchmark measures: a package and a program that read a colour."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

# One process for a list of images: a page for each, whose text is the blue of the file's last byte triple.
PROGRAM = r"""#!{python}
import sys
if sys.argv[1] == "--version":
    print("tesseract 9.8.7\n leptonica")
    sys.exit(0)
names, output, psm, mode, language, english, table = sys.argv[1:]
assert (output, psm, mode, language, english, table) == ("stdout", "--psm", "8", "-l", "eng", "tsv")
print("level\tpage_num\tblock_num\tconf\ttext")
for page, name in enumerate(open(names).read().split("\n")[:-1], 1):
    content = open(name, "rb").read()
    blue = content[54]
    if blue == 255:
        sys.exit("no such language")
    print(f"1\t{{page}}\t0\t-1\t")
    if blue:
        print(f"5\t{{page}}\t1\t90\tblue\n5\t{{page}}\t2\t90\t{{blue}}")
"""


def install_rapidocr(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a package `rapidocr` in place that reads the blue of the first pixel; gives the calls it saw."""
    calls: list[dict[str, Any]] = []

    class RapidOCR:
        def __init__(self, params: dict[str, Any]) -> None:
            calls.append(params)

        def __call__(self, image: np.ndarray, **options: bool) -> None:
            calls.append(options)

        def text_rec(self, inputs: Any) -> SimpleNamespace:
            return SimpleNamespace(txts=[str(image[0, 0, 0]) for image in inputs.img])

    package, typings = ModuleType("rapidocr"), ModuleType("rapidocr.ch_ppocr_rec.typings")
    package.RapidOCR = RapidOCR  # type: ignore[attr-defined]
    typings.TextRecInput = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rapidocr", package)
    monkeypatch.setitem(sys.modules, "rapidocr.ch_ppocr_rec", ModuleType("rapidocr.ch_ppocr_rec"))
    monkeypatch.setitem(sys.modules, "rapidocr.ch_ppocr_rec.typings", typings)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.0")
    return calls


def install_tesseract(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Put a program `tesseract` first on the PATH that reads the blue of an image's lower left pixel.

    It finds no word for 0 and fails at 255.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "tesseract"
    program.write_text(PROGRAM.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program
