"""Executing and cleaning notebooks: a kernel of this interpreter, outputs without traces of the machine."""

import getpass
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from training import run_notebooks
from training.run_notebooks import (
    clean_notebook,
    defined_names,
    execute_notebook,
    find_problems,
    read_notebook,
    store_notebook,
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook of some code cells."""

    def make(*codes: str, name: str = "words.ipynb") -> Path:
        notebook = new_notebook(cells=[new_markdown_cell("# Words"), *map(new_code_cell, codes)])
        path = tmp_path / name
        nbformat.write(notebook, path)
        return path

    return make


def run_cell(*outputs: NotebookNode, source: str = "1", count: int = 1) -> NotebookNode:
    """A notebook of one cell that has run."""
    return new_notebook(cells=[new_code_cell(source, outputs=list(outputs), execution_count=count)])


def stream(text: str, name: str = "stdout") -> NotebookNode:
    """A piece of what a cell printed."""
    return new_output("stream", name=name, text=text)


@pytest.mark.slow
def test_kernel_is_this_interpreter_offline_and_in_its_folder(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(
        "import os, sys\nprint(sys.executable, os.getcwd())", "print(os.environ['HF_HUB_OFFLINE'])\nWORDS = 1"
    )
    before = path.read_bytes()
    folder = tmp_path / "here"
    folder.mkdir()
    notebook = execute_notebook(path, folder, {"HF_HUB_OFFLINE": "1"})
    assert notebook.cells[1].outputs[0].text.split() == [sys.executable, str(folder)]
    assert notebook.cells[2].outputs[0].text == "1\n"
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert path.read_bytes() == before


@pytest.mark.slow
def test_command_stores_what_is_clean_and_leaves_the_rest(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write("print('read')", name="good.ipynb")
    bad = write("print('read')", "1 / 0", name="bad.ipynb")
    telling = write("print('/home/somebody/words')", name="telling.ipynb")
    kept = bad.read_bytes(), telling.read_bytes()
    paths = [str(path) for path in (good, bad, telling)]
    assert run_notebooks.main(paths) == 1
    told = capsys.readouterr()
    assert "good.ipynb: 2 cells" in told.out
    assert "ZeroDivisionError" in told.err
    assert "'/home/somebody'" in told.err
    assert (bad.read_bytes(), telling.read_bytes()) == kept
    stored = read_notebook(good)
    assert stored.cells[1].outputs[0].text == "read\n"
    assert list(find_problems(stored)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "good.ipynb", "telling.ipynb"]


@pytest.mark.slow
def test_output_folder_leaves_the_source_alone(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("print('read')")
    before = path.read_bytes()
    assert run_notebooks.main([str(path), "--output", str(tmp_path / "executed")]) == 0
    assert path.read_bytes() == before
    assert read_notebook(tmp_path / "executed" / "words.ipynb").cells[1].outputs


@pytest.mark.slow
def test_failing_cell_raises_with_what_it_said(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="no words"):
        execute_notebook(write("raise ValueError('no words')"), tmp_path)


def test_missing_or_broken_notebooks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="open and save it in Jupyter"):
        read_notebook(broken)
    assert run_notebooks.main([str(broken), str(tmp_path / "missing.ipynb")]) == 1
    told = capsys.readouterr().err
    assert "no valid notebook" in told
    assert "missing.ipynb" in told


def test_cleaning_joins_streams_and_drops_what_changes() -> None:
    picture = new_output(
        "display_data", data={"image/png": "a", "image/jpeg": "b"}, metadata={"image/png": {"width": 3}}
    )
    notebook = run_cell(
        stream("one\n"),
        stream("two\r\n"),
        stream("  3%|    | 1/2 [00:01<00:01]\r100%|####| 2/2 [00:02<00:00]\n", "stderr"),
        stream("\x1b[31mred\x1b[0m  \n[2026-01-01 12:00:00,123] [WARNING] [x.py] hello\nleft\rright\n"),
        picture,
    )
    notebook.cells[0].metadata = {"execution": {"iopub.execute_input": "2026"}, "tags": ["x"]}
    notebook.metadata = {"widgets": {}, "language_info": {"name": "python", "version": "3.11.9"}}
    clean_notebook(notebook)
    cell = notebook.cells[0]
    assert cell.metadata == {}
    assert notebook.metadata.language_info == {"name": "python"}
    assert [output.get("text") for output in cell.outputs] == ["one\ntwo\nred\nright\n", None]
    assert cell.outputs[1].data == {"image/png": "a"}
    assert cell.outputs[1].metadata == {}
    again = nbformat.writes(notebook)
    clean_notebook(notebook)
    assert nbformat.writes(notebook) == again


@pytest.mark.parametrize(
    ("notebook", "words"),
    [
        (run_cell(stream("a"), count=2), "has the count 2"),
        (run_cell(), "no cell has an output"),
        (run_cell(new_output("error", ename="ValueError", evalue="bad", traceback=[])), "failed: ValueError"),
        (run_cell(stream(f"see {PurePosixPath('/', 'root', 'words', 'a.png')}")), "root/words'"),
        (run_cell(stream("see /tmp/abc/a.png")), "'/tmp/abc'"),
        (run_cell(stream(r"see C:\Users\me\a.png")), "print relative paths"),
        (run_cell(new_output("execute_result", data={"text/plain": "/home/me/a"})), "'/home/me'"),
        (run_cell(stream("a" * 500_000)), "make its pictures smaller"),
        (run_cell(stream("a"), source="def f():\n    return 1"), "defines f"),
        (run_cell(stream("a"), source="class A:\n    pass"), "defines A"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_problems_are_named(notebook: NotebookNode, words: str) -> None:
    assert any(words in problem for problem in find_problems(notebook)), list(find_problems(notebook))


def test_names_of_person_and_machine_are_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "kim")
    monkeypatch.setattr(run_notebooks.socket, "gethostname", lambda: "desk-7")
    assert any("'kim'" in problem for problem in find_problems(run_cell(stream("by kim."))))
    assert any("'desk-7'" in problem for problem in find_problems(run_cell(stream("on desk-7"))))
    assert list(find_problems(run_cell(stream("kimono /runs/words")))) == []


def test_magics_are_no_python() -> None:
    source = "%matplotlib inline\nif True:\n    !python -m x \\\n        'a={b}'\nsquare = lambda x: x * x"
    assert defined_names(source) == []
    assert defined_names(f"{source}\nasync def g():\n    pass") == ["g"]
    assert defined_names("%%script python\ndef h(): pass") == []


def test_storing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.ipynb"
    size = store_notebook(run_cell(stream("a")), path)
    assert size == path.stat().st_size
    before = path.read_bytes()
    assert before.endswith(b"}\n")

    def stop(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(OSError, match="disk full"):
        store_notebook(run_cell(stream("b")), path)
    assert path.read_bytes() == before
