"""The demo page: its functions, its API read by Gradio's own client, and itself in a real browser."""

import ast
import csv
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import gradio_client
import pytest
from transformers import pipeline

from modeling_rcmstr import default_checkpoint, demo_page
from modeling_rcmstr.demo_page import (
    DemoPageError,
    build_page,
    describe_model,
    example_words,
    load_gradio,
    serve_page,
    show_reading,
    word_saliency,
)
from modeling_rcmstr.word_readings import read_files
from tests.test_word_readings import write_bomb

ROOT = Path(__file__).resolve().parent.parent
TASK: Any = "text-recognition"


@pytest.fixture(scope="module")
def reader() -> Any:
    """The bundled recogniser."""
    return pipeline(TASK, model=str(default_checkpoint()), device="cpu")


@pytest.fixture(scope="module")
def address(reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page that is served on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = build_page(reader, "the one in the package")
        yield serve_page(page, "127.0.0.1")
        page.close()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A word, a file that is no picture, one that is too large, and a word."""
    shutil.copyfile(ROOT / "examples" / "word_01.jpg", tmp_path / "first.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    write_bomb(tmp_path / "bomb.png")
    shutil.copyfile(ROOT / "examples" / "word_06.jpg", tmp_path / "last.jpg")
    return [str(tmp_path / name) for name in ("first.jpg", "notes.txt", "bomb.png", "last.jpg")]


def test_without_gradio_the_page_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"install with pip install 'modeling-rcmstr\[demo\]'"):
        build_page(None, "none")


def test_gradio_counts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    load_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_no_model_knows_the_page() -> None:
    """What a saved model, processor or pipeline takes along is reached from these files."""
    package = Path(demo_page.__file__).parent
    reached = ["modeling_rcmstr", "modeling_persec", "pretraining_rcmstr", "pretraining_persec"]
    reached += ["pipeline_text_recognition", "__init__"]
    for stem in reached:
        for node in ast.walk(ast.parse((package / f"{stem}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and node.module not in reached:
                reached.append(str(node.module))
    assert not {"demo_page", "reading_card", "word_readings", "saliency"} & set(reached)


def test_examples_are_those_of_the_repository() -> None:
    assert len(example_words()) >= 6
    for word in example_words():
        assert word.read_bytes() == (ROOT / "examples" / word.name).read_bytes(), word.name


def test_a_reading_is_shown_with_its_map(reader: Any, files: list[str]) -> None:
    first, failed, *_ = read_files(reader, files)
    saliency = word_saliency(reader, first)
    assert first.word is not None
    assert saliency.maps.shape == (1, *first.word.shape[:2])
    shown = show_reading(reader, first)
    assert ">OPEN</p>" in shown
    assert shown.count("<img") == 2
    assert "could not be read" in show_reading(reader, failed)
    with pytest.raises(ValueError, match=r"no map for notes\.txt"):
        word_saliency(reader, failed)


def test_the_model_is_described(reader: Any) -> None:
    assert describe_model(reader, "mine") == "Recogniser: mine (rcmstr, CNN and CTC, 95 characters)."
    assert describe_model(reader, "org/name").startswith("Recogniser: org/name (")
    assert describe_model(reader, "/home/me/secret/mine").startswith("Recogniser: mine (")


def test_readings_gather_and_go(reader: Any, files: list[str]) -> None:
    callbacks = demo_page._Callbacks(reader, load_gradio())
    readings, emptied, card, batch, table, links = callbacks.read(files[:2], [])
    assert emptied is None
    assert batch["visible"]
    assert ">OPEN</p>" in card
    assert "readings.tsv" in links
    readings, _, card, _, table, _ = callbacks.read(files[3:], readings)
    assert [one.name for one in readings] == ["first.jpg", "notes.txt", "last.jpg"]
    assert ">Platform</p>" in card
    assert "All pictures (3)" in table
    card, table = callbacks.show(readings, 2)
    assert "could not be read" in card
    assert callbacks.read(None, readings)[0] == readings
    readings, _, card, batch, table, links = callbacks.clear()
    assert (readings, table, links, batch["visible"]) == ([], "", "", False)
    assert "appears here" in card


def test_an_address_that_cannot_be_is_refused_at_once(reader: Any) -> None:
    page = build_page(reader, "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DemoPageError, match=rf"cannot be at 127\.0\.0\.1, port {port}.*give another"):
            serve_page(page, port=port)
    with pytest.raises(DemoPageError, match="port 70000"):
        serve_page(page, port=70_000)
    with pytest.raises(DemoPageError, match="cannot be at 192.0.2.1"):
        serve_page(page, "192.0.2.1")


def test_the_api_reads_what_can_be_read(address: str, reader: Any, files: list[str]) -> None:
    client = gradio_client.Client(address, verbose=False)
    answers = client.predict([gradio_client.handle_file(file) for file in files], api_name="/read")
    assert [answer["text"] for answer in answers] == ["OPEN", None, None, "Platform"]
    assert answers[0]["score"] == pytest.approx(reader(files[0])["score"], rel=1e-4)
    assert [one["character"] for one in answers[0]["characters"]] == list("OPEN")
    assert "not an image" in answers[1]["error"]
    assert "too large" in answers[2]["error"]
    assert answers[0]["error"] is None
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/read"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's own browser, without a window."""
    programs = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, programs)), None)
    if program is None:
        pytest.skip(f"no browser on this machine ({', '.join(programs)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container's own user is often root, for which the sandbox does not work.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def open_page(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    """Open the page; gives it with the list of its requests to any other server."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    outside: list[str] = []

    def watch(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            outside.append(request.url)

    page.on("request", watch)
    page.goto(address)
    page.wait_for_selector("#pictures input[type=file]", state="attached")
    return page, outside


@pytest.mark.slow
def test_a_browser_uploads_reads_back_and_downloads(address: str, browser: Any, files: list[str]) -> None:
    page, outside = open_page(browser, address)
    page.set_input_files("#pictures input[type=file]", files)
    assert page.inner_text("#read-text") == "OPEN"
    assert "confidence 98.8 %" in page.inner_text("#card")
    assert page.locator("#card .span").count() == 4
    assert page.locator("#card img").count() == 2
    widths = page.evaluate("[...document.querySelectorAll('#card img')].map(image => image.naturalWidth)")
    assert min(widths) > 0, "a picture is broken"
    table = page.inner_text("#table")
    assert all(piece in table for piece in ("Platform", "notes.txt", "not an image", "too large"))
    page.click("#table button[data-number='4']")
    page.wait_for_function("document.querySelector('#read-text')?.innerText === 'Platform'")
    page.click("#table button[data-number='3']")
    page.wait_for_selector("#card [role=alert]")
    with page.expect_download() as download:
        page.click("a[download='readings.csv']")
    rows = list(csv.DictReader(StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    assert [row["text"] for row in rows] == ["OPEN", "", "", "Platform"]
    page.click("#clear")
    page.wait_for_selector("#table", state="hidden")
    assert outside == []


@pytest.mark.slow
def test_a_browser_pastes_and_tries_an_example(address: str, browser: Any) -> None:
    page, outside = open_page(browser, address, color_scheme="dark", viewport={"width": 390, "height": 800})
    page.click("#examples button >> nth=0")
    page.wait_for_function("document.querySelector('#read-text')?.innerText === 'OPEN'")
    content = list((ROOT / "examples" / "word_11.jpg").read_bytes())
    page.evaluate(
        """(content) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(content)], "pasted.jpg", {type: "image/jpeg"}));
          document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
        }""",
        content,
    )
    page.wait_for_function("document.querySelector('#read-text')?.innerText === 'TAXI'")
    assert "pasted.jpg" in page.inner_text("#table")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        """[...document.querySelectorAll("#examples, #table, #paste, #clear, #pictures")]
          .flatMap((part) => part.tagName === "BUTTON" ? [part] : [...part.querySelectorAll("button")])
          .filter((one) => !(one.innerText.trim() || one.ariaLabel || one.querySelector("img[alt]")))
          .length"""
    )
    assert unnamed == 0
    assert outside == []
