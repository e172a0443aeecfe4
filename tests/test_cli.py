"""`rcmstr read`: what it finds, what it prints in each style, how it ends."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import logging

import modeling_rcmstr
from modeling_rcmstr import cli, demo_page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as they are: pictures, other files, a hidden file, a broken picture, a folder inside."""
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    for name in ("w10.png", "w9.JPG", "more/w1.png", ".hidden.png"):
        Image.new("RGB", (64, 32)).save(pictures / name)
    (pictures / "labels.tsv").write_text("w9.JPG\tnine\n")
    (pictures / "broken.png").write_bytes(b"junk")
    (pictures / "folder.png").mkdir()
    return pictures


@pytest.fixture
def fake_reader(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Read the name of each file instead of its pixels; gives the options that the reader was made with."""
    seen: list[argparse.Namespace] = []

    def read_names(paths: Iterator[str]) -> Iterator[dict[str, Any]]:
        for path in paths:
            if "broken" in path or not Path(path).exists():
                yield {"text": None, "score": 0.0, "error": f"{path}:\ncannot be\tread", "characters": []}
            else:
                characters = [{"character": "w", "score": 0.5, "start": 0.0, "end": 0.25}]
                characters += [{"character": "9", "score": 1.0, "start": None, "end": None}]
                yield {"text": Path(path).stem, "score": 0.98765, "characters": characters}

    def load(options: argparse.Namespace) -> Any:
        seen.append(options)
        return read_names

    monkeypatch.setattr(cli, "load_pipeline", load)
    return seen


def test_a_folder_gives_its_pictures_in_natural_order(folder: Path) -> None:
    paths, problems = cli.find_images([str(folder)])
    assert [Path(path).name for path in paths] == ["broken.png", "w9.JPG", "w10.png"]
    assert problems == []
    paths, _ = cli.find_images([str(folder)], recursive=True)
    assert [Path(path).relative_to(folder).as_posix() for path in paths] == [
        "broken.png",
        "more/w1.png",
        "w9.JPG",
        "w10.png",
    ]


def test_what_is_named_is_always_tried_in_the_order_given(folder: Path) -> None:
    named = [
        str(folder / "labels.tsv"),
        "absent.png",
        "https://example.org/word.png",
        str(folder / ".hidden.png"),
    ]
    assert cli.find_images(named) == (named, [])


def test_a_folder_without_pictures_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    paths, problems = cli.find_images([str(tmp_path)])
    assert paths == []
    assert "no image files in this folder (.avif .bmp" in problems[0]
    assert "--recursive" in problems[0]


def test_numbers_are_ordered_by_value() -> None:
    names = ["b1", "a10", "a9", "A1", "a09b", "10", "9", "a"]
    assert sorted(names, key=cli.natural_key) == ["9", "10", "a", "A1", "a9", "a09b", "a10", "b1"]


def test_the_table_lines_up_path_text_and_confidence(
    folder: Path,
    fake_reader: list[argparse.Namespace],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["read", "."]) == cli.EXIT_UNREADABLE
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines == [
        "broken.png  could not be read: broken.png: cannot be read",
        "w9.JPG      w9                        98.8 %",
        "w10.png     w10                       98.8 %",
    ]
    assert output.err == "rcmstr: 1 of 3 pictures could not be read\n"


def test_the_table_shows_characters_on_request(
    folder: Path, fake_reader: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["read", str(folder / "w9.JPG"), "--characters"]) == cli.EXIT_READ
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["w", "50.0", "%", "0.000", "to", "0.250"], ["9", "100.0", "%"]]
    assert fake_reader[0].characters is True


def test_json_is_one_valid_document_with_a_line_per_word(
    folder: Path, fake_reader: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["read", str(folder), "--json"]) == cli.EXIT_UNREADABLE
    output = capsys.readouterr().out
    rows = json.loads(output)
    assert [Path(row["path"]).name for row in rows] == ["broken.png", "w9.JPG", "w10.png"]
    assert rows[0]["text"] is None
    assert "cannot be" in rows[0]["error"]
    assert (rows[1]["text"], rows[1]["score"]) == ("w9", 0.98765)
    assert len([line for line in output.splitlines() if line.startswith("{")]) == 3


def test_json_is_closed_when_reading_stops(capsys: pytest.CaptureFixture[str]) -> None:
    def stopping() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "a.png", {"text": "a", "score": 1.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cli.write_json(stopping(), [], False)
    assert json.loads(capsys.readouterr().out) == [{"path": "a.png", "text": "a", "score": 1.0}]
    cli.write_json(iter([]), [], False)
    assert json.loads(capsys.readouterr().out) == []


def test_tsv_has_a_header_and_escapes_what_would_break_it(
    folder: Path, fake_reader: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["read", str(folder), "--tsv"])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["path", "text", "score", "error"]
    assert rows[1] == [
        str(folder / "broken.png"),
        "",
        "0.000000",
        f"{folder / 'broken.png'}:\\ncannot be\\tread",
    ]
    assert rows[2][1:] == ["w9", "0.987650", ""]
    cli.main(["read", str(folder / "w9.JPG"), "--tsv", "--characters"])
    header, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header[-1] == "characters"
    assert json.loads(row[-1])[0]["character"] == "w"


def test_a_missing_file_is_reported_and_the_others_are_read(
    folder: Path, fake_reader: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["read", "absent.png", str(folder / "w9.JPG")]) == cli.EXIT_UNREADABLE
    first, second = capsys.readouterr().out.splitlines()
    assert "could not be read" in first
    assert "w9" in second


def test_an_empty_folder_costs_the_status_and_not_the_others(
    folder: Path, tmp_path: Path, fake_reader: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.main(["read", str(empty)]) == cli.EXIT_NOT_TRIED
    assert fake_reader == []
    assert "no image files" in capsys.readouterr().err
    assert cli.main(["read", str(empty), str(folder / "w9.JPG")]) == cli.EXIT_UNREADABLE
    assert "w9" in capsys.readouterr().out


def test_a_recogniser_that_cannot_be_loaded_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> Any:
        raise OSError("no such\nrecogniser")

    monkeypatch.setattr(cli, "load_pipeline", fail)
    assert cli.main(["read", str(folder), "--checkpoint", "nowhere"]) == cli.EXIT_NOT_TRIED
    assert capsys.readouterr().err == "rcmstr: cannot read with nowhere: no such recogniser\n"


def test_a_page_is_shown_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def note(result: Any) -> Any:
        def call(*given: Any) -> Any:
            seen.append(given)
            return result

        return call

    page = SimpleNamespace(block_thread=note(None))
    monkeypatch.setattr(cli, "load_pipeline", note("reader"))
    monkeypatch.setattr(demo_page, "build_page", note(page))
    monkeypatch.setattr(demo_page, "serve_page", note("http://here"))
    assert cli.main(["demo", "folder", "--port", "8000", "--host", "0.0.0.0", "--share"]) == cli.EXIT_READ
    assert seen[0][0].checkpoint == "folder"
    assert seen[1:] == [("reader", "folder"), (page, "0.0.0.0", 8000, True), ()]
    assert capsys.readouterr().out == "The page is at http://here (Ctrl+C ends it).\n"
    assert cli.main(["demo"]) == cli.EXIT_READ
    assert seen[4][0].checkpoint is None
    assert seen[5:] == [("reader", "the one in the package"), (page, "127.0.0.1", None, False), ()]


def test_a_page_without_its_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(cli, "load_pipeline", lambda options: pytest.fail("loaded before it was checked"))
    assert cli.main(["demo"]) == cli.EXIT_NOT_TRIED
    assert "pip install 'modeling-rcmstr[demo]'" in capsys.readouterr().err


def test_an_export_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[argparse.Namespace] = []

    def fail(options: argparse.Namespace) -> Any:
        seen.append(options)
        raise OSError("no such\nrecogniser")

    monkeypatch.setattr(cli, "load_pipeline", fail)
    assert cli.main(["export", "nowhere", "--onnx", str(tmp_path / "out")]) == cli.EXIT_NOT_TRIED
    assert capsys.readouterr().err == "rcmstr: cannot export nowhere: no such recogniser\n"
    assert (seen[0].checkpoint, seen[0].device) == ("nowhere", "cpu")
    words = ["--words", str(tmp_path)]
    assert cli.main(["export", "--onnx", str(tmp_path / "out"), *words]) == cli.EXIT_NOT_TRIED
    assert "no image files in this folder" in capsys.readouterr().err
    assert len(seen) == 1, "nothing is loaded for words that are not there"


def test_an_interrupt_is_not_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: argparse.Namespace) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_pipeline", interrupt)
    assert cli.main(["read", str(folder)]) == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "rcmstr: interrupted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["read"],
        ["write", "word.png"],
        ["read", "word.png", "--json", "--tsv"],
        ["read", "word.png", "--batch-size", "0"],
        ["read", "word.png", "--threads", "two"],
        ["read", "word.png", "--unknown"],
        ["demo", "--port", "web"],
        ["demo", "model", "word.png"],
        ["export"],
        ["export", "one", "two", "--onnx", "out"],
    ],
)
def test_wrong_arguments_end_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.EXIT_NOT_TRIED
    assert "usage: rcmstr" in capsys.readouterr().err


def test_wide_and_combining_characters_keep_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["ab", "漢字", "ae\u0301"]
    cli.write_table(((text, {"text": text, "score": 1.0}) for text in texts), texts, False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip()[-7:] for line in lines] == ["100.0 %"] * 3
    assert len(lines[0]) == len(lines[1]) + 4 == len(lines[2]) - 2


def run_alone(program: str) -> "subprocess.Popen[bytes]":
    """Run a program that finds the module as `cli`, loaded from its file, without the package around it."""
    loading = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('cli', {cli.__file__!r})\n"
        "cli = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(cli)\n"
    )
    command = [sys.executable, "-c", loading + program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_help_comes_before_any_library_is_imported() -> None:
    program = (
        "try:\n"
        "    cli.main(['read', '--help'])\n"
        "except SystemExit:\n"
        "    sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'numpy', 'PIL')))\n"
    )
    with run_alone(program) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert b"IMAGE_OR_FOLDER" in output


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`rcmstr read … | head -1`: quiet, and with the status of a program that a closed pipe ended."""
    program = (
        "cli.load_pipeline = lambda options: lambda paths: ({'text': path, 'score': 1.0} for path in paths)\n"
        "cli.show_progress = lambda answers, total: answers\n"
        "sys.exit(cli.main(['read', *['x' * 200] * 5000]))\n"
    )
    with run_alone(program) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"xxx")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == cli.EXIT_BROKEN_PIPE
    assert errors == b""


@pytest.fixture
def checkpoint(tiny_config: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """A random recogniser in a folder; what loading it changes for the whole process is put back."""
    verbosity, threads = logging.get_verbosity(), torch.get_num_threads()
    saved = tmp_path / "checkpoint"
    modeling_rcmstr.RCMSTRForTextRecognition(tiny_config()).save_pretrained(saved)
    image_processor = modeling_rcmstr.TextRecognitionImageProcessor()
    tokenizer = modeling_rcmstr.CharacterTokenizer()
    modeling_rcmstr.TextRecognitionProcessor(image_processor, tokenizer).save_pretrained(saved)
    yield str(saved)
    logging.set_verbosity(verbosity)
    torch.set_num_threads(threads)


def test_a_folder_is_read_with_a_checkpoint(
    folder: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["read", str(folder), "--checkpoint", checkpoint, "--device", "cpu", "--threads", "1"]
    assert (
        cli.main([*arguments, "--json", "--characters", "--allowed-characters", "0123456789"])
        == cli.EXIT_UNREADABLE
    )
    output = capsys.readouterr()
    broken, *words = json.loads(output.out)
    assert "broken.png is not an image that Pillow can read" in broken["error"]
    assert torch.get_num_threads() == 1
    for word in words:
        assert set(word["text"]) <= set("0123456789")
        assert 0 <= word["score"] <= 1
        assert len(word["characters"]) == len(word["text"])
    assert output.err == "rcmstr: 1 of 3 pictures could not be read\n"
    assert cli.main([*arguments, "--allowed-characters", "é"]) == cli.EXIT_NOT_TRIED
    assert "'é' outside" in capsys.readouterr().err


def test_without_a_checkpoint_in_the_package_one_must_be_given(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modeling_rcmstr import pipeline_text_recognition

    monkeypatch.setattr(pipeline_text_recognition, "default_checkpoint", lambda: tmp_path / "absent")
    assert cli.main(["read", str(folder)]) == cli.EXIT_NOT_TRIED
    assert "give a recogniser with --checkpoint" in capsys.readouterr().err
    assert cli.main(["read", str(folder), "--checkpoint", str(tmp_path / "absent")]) == cli.EXIT_NOT_TRIED
    assert "there is no such folder" in capsys.readouterr().err
