"""The notebooks run from a fresh kernel, offline, with tiny settings; what is committed is clean."""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.programs import run_program
from training.run_notebooks import clean_notebook, execute_notebook, find_problems, read_notebook

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["finetune_on_your_words", "look_at_pretraining", "pretrain_on_your_crops", "read_words"]
TINY = {
    "read_words": {"CONFIDENCE_WORDS": "40"},
    "finetune_on_your_words": {"DRAWN_WORDS": "40", "UPDATES": "2", "BATCH_SIZE": "4"},
    "pretrain_on_your_crops": {
        "CROPS_DRAWN": "24",
        "WORDS_DRAWN": "40",
        "PRETRAINING_UPDATES": "2",
        "UPDATES": "2",
        "BATCH_SIZE": "8",
        "LABEL_COUNTS": "[4, 16]",
        "SEEDS": "[0]",
    },
    "look_at_pretraining": {"CROPS_DRAWN": "24", "UPDATES": "2", "BATCH_SIZE": "8"},
}


def run_tiny(name: str, folder: Path, **settings: str) -> NotebookNode:
    """Run a copy of a notebook in an empty folder, and leave what it writes there."""
    copy = folder / f"{name}.ipynb"
    copy.write_bytes((ROOT / "notebooks" / f"{name}.ipynb").read_bytes())
    chosen = {**TINY[name], **settings, "FOLDER": str(folder / "work")}
    environment = {f"NOTEBOOK_{key}": value for key, value in chosen.items()}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    notebook = execute_notebook(copy, folder, environment, limit_s=300)
    clean_notebook(notebook)
    return notebook


def said(notebook: NotebookNode) -> str:
    """All texts of a notebook's outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        for output in outputs
    )


def pictures(notebook: NotebookNode) -> int:
    """How many pictures a notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def sources(notebook: NotebookNode) -> str:
    """All code of a notebook."""
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_the_notebooks_are_those_of_the_plan() -> None:
    assert [path.stem for path in FILES] == NAMES == sorted(TINY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_outputs_are_whole_and_clean(path: Path) -> None:
    notebook = read_notebook(path)
    assert list(find_problems(notebook)) == []
    assert pictures(notebook) >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_files_are_as_the_command_stores_them(path: Path) -> None:
    notebook = read_notebook(path)
    before = nbformat.writes(notebook)
    clean_notebook(notebook)
    assert nbformat.writes(notebook) == before
    assert not any("execution" in cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_notebook_begins_alike_and_explains_its_code(path: Path) -> None:
    cells = read_notebook(path).cells
    others = [read_notebook(other).cells for other in FILES]
    assert cells[0].source.startswith("# ")
    assert cells[1].source == others[0][1].source, "the cell that finds or fetches the repository"
    assert cells[2].source.startswith("## Settings")
    texts = [cell for cell in cells if cell.cell_type == "markdown"]
    assert 2 * len(texts) >= len(cells) - len(texts)
    assert cells[-1].source.startswith("## For your own"), "ends with what to change"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_and_files_that_a_notebook_names_exist(path: Path) -> None:
    notebook = read_notebook(path)
    text = "\n".join(cell.source for cell in notebook.cells)
    for file in re.findall(r"(?:training/configs|docs|examples)/[\w./]*\w\.\w+", text):
        assert (ROOT / file).is_file(), file
    for other in re.findall(r"`(\w+\.ipynb)`", text):
        assert (ROOT / "notebooks" / other).is_file(), other
    for module in re.findall(r"python -m ((?:training|modeling_rcmstr)\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for key in TINY[path.stem]:
        assert f'"NOTEBOOK_{key}"' in sources(notebook), key


def test_outside_the_repository_the_first_cell_fetches_and_installs_it(tmp_path: Path) -> None:
    """With a `git` and a `pip` that note what they are asked for."""
    cell = read_notebook(FILES[0]).cells[1].source
    programs, start = tmp_path / "bin", tmp_path / "hosted"
    programs.mkdir()
    start.mkdir()
    git = programs / "git"
    git.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/git.txt"\nmkdir -p modeling_rcmstr/training\n')
    git.chmod(0o755)
    (programs / "pip.py").write_text(
        f"import sys\nopen({str(tmp_path / 'pip.txt')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
    )
    code = cell.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/words"')
    (start / "cell.ipy").write_text(f"{code}\nprint(root, os.getcwd())\n")
    environment = {
        "PYTHONPATH": str(programs),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    ended = run_program([sys.executable, "-m", "IPython", "cell.ipy"], cwd=start, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "git.txt").read_text().split() == [
        "clone",
        "--depth",
        "1",
        "https://example.org/words",
        "modeling_rcmstr",
    ]
    assert (tmp_path / "pip.txt").read_text() == "install -q modeling_rcmstr/[notebooks]"
    assert ended.stdout.split() == [str(start / "modeling_rcmstr")] * 2
    # A restarted kernel finds what is there.
    (start / "modeling_rcmstr" / "training" / "run_finetuning.py").touch()
    (tmp_path / "git.txt").unlink()
    again = run_program([sys.executable, "-m", "IPython", "cell.ipy"], cwd=start, env=environment)
    assert again.stdout.split() == [str(start / "modeling_rcmstr")] * 2
    assert not (tmp_path / "git.txt").exists()


def test_outside_the_repository_the_first_cell_asks_for_its_address(tmp_path: Path) -> None:
    (tmp_path / "cell.ipy").write_text(read_notebook(FILES[0]).cells[1].source)
    environment = {"PYTHONPATH": "", "IPYTHONDIR": str(tmp_path / "ipython")}
    ended = run_program([sys.executable, "-m", "IPython", "cell.ipy"], cwd=tmp_path, env=environment)
    assert "name its address in REPOSITORY" in ended.stdout + ended.stderr


@pytest.mark.slow
def test_read_words(tmp_path: Path) -> None:
    notebook = run_tiny("read_words", tmp_path)
    table = (tmp_path / "work" / "words.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "file,text,score,label,right"
    assert len(table) == 13
    assert sum(line.endswith("True") for line in table) >= 9
    assert pictures(notebook) >= 6
    assert re.search(r"40 words, right to the character: \d+\.\d%", said(notebook))


@pytest.mark.slow
def test_read_words_reads_a_folder_without_labels_and_with_a_broken_file(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    (words / "one.jpg").write_bytes((ROOT / "examples" / "word_01.jpg").read_bytes())
    (words / "two.png").write_bytes(b"nothing")
    notebook = run_tiny("read_words", tmp_path, WORDS=str(words))
    table = (tmp_path / "work" / "words.csv").read_text(encoding="utf-8").splitlines()
    assert table[1].startswith("one.jpg,OPEN,")
    assert table[2].startswith("two.png,,0.0,")
    assert "two.png" in said(notebook)


@pytest.mark.slow
def test_finetune_on_your_words(tmp_path: Path) -> None:
    notebook = run_tiny("finetune_on_your_words", tmp_path)
    text = said(notebook)
    shares = re.findall(r"^(before|after) +right to the character: (\d+\.\d)%", text, flags=re.MULTILINE)
    assert [name for name, _ in shares] == ["before", "after"]
    assert all(0 <= float(share) <= 100 for _, share in shares)
    config = json.loads((tmp_path / "work" / "hub_folder" / "config.json").read_text(encoding="utf-8"))
    assert "AutoModelForTextRecognition" in config["auto_map"]
    assert "this package imported: False" in text
    assert "code from: transformers_modules" in text


@pytest.mark.slow
@pytest.mark.parametrize(("method", "counts"), [("rcmstr", [4, 16]), ("persec", [16])])
def test_pretrain_on_your_crops(tmp_path: Path, method: str, counts: list[int]) -> None:
    notebook = run_tiny("pretrain_on_your_crops", tmp_path, METHOD=method, LABEL_COUNTS=str(counts))
    curve = json.loads((tmp_path / "work" / "label_efficiency" / "results.json").read_text(encoding="utf-8"))
    assert {(point["start"], point["labels"]) for point in curve["points"]} == {
        (start, labels) for start in ("pretrained", "scratch") for labels in counts
    }
    config = json.loads((tmp_path / "work" / method / "final" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == method
    assert len(re.findall(r"\d+\.\d% of the words with 16 labels", said(notebook))) == 2
    assert pictures(notebook) == 3


@pytest.mark.slow
def test_look_at_pretraining(tmp_path: Path) -> None:
    notebook = run_tiny("look_at_pretraining", tmp_path)
    assert {path.name for path in (tmp_path / "work").iterdir() if path.is_dir()} == {
        "crops",
        "rcmstr",
        "persec",
    }
    assert pictures(notebook) == 12
