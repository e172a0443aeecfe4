"""What the README says is so: its commands exist, its code runs, its links lead somewhere."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from modeling_rcmstr import cli, default_checkpoint
from training import fill_results
from training.benchmark_measurement import checkpoint_hash

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the bash blocks as words, without comments; continued lines are joined."""
    text = "".join(code_blocks("bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words]


def make_targets() -> set[str]:
    """The targets that the Makefile declares phony."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^\.PHONY:(.*)$", makefile, flags=re.MULTILINE)[0].split())


def test_every_command_is_of_a_known_kind() -> None:
    known = {"make", "python", "rcmstr", "pip", "bash", "torchrun", "tensorboard"}
    assert {words[0] for words in commands()} <= known


def test_make_targets_exist() -> None:
    named = {words[1] for words in commands() if words[0] == "make"}
    assert {"demo", "test"} <= named <= make_targets()


def test_modules_and_scripts_exist() -> None:
    for words in commands():
        if words[:2] == ["python", "-m"]:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), words
        elif words[0] == "bash":
            assert (ROOT / words[1]).is_file(), words


def test_files_named_by_commands_exist() -> None:
    """Settings and images that a command reads are in the repository."""
    for words in commands():
        for word in words[1:]:
            if word.startswith(("examples/", "training/", "modeling_rcmstr/")):
                assert (ROOT / word).exists(), words


@pytest.mark.parametrize("script", sorted((ROOT / "training").glob("*.py")), ids=lambda path: path.stem)
def test_commands_in_docstrings_name_what_exists(script: Path) -> None:
    """Indented lines of a module's docstring are commands: their modules and settings files are there."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    found = re.findall(r"-m (training\.\w+)", text) + re.findall(r"training/configs/[\w./]*\w", text)
    for word in found:
        path = f"{word.replace('.', '/')}.py" if word.startswith("training.") else word
        assert (ROOT / path).exists(), word


def test_rcmstr_commands_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    read = [words[1:] for words in commands() if words[:2] == ["rcmstr", "read"]]
    assert read
    for words in read:
        assert cli.main(words) == 0, words
        assert "word_01.jpg" in capsys.readouterr().out


def test_python_blocks_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As one session, from top to bottom, in the folder of a fresh clone."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for block in code_blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["reader"].task == "text-recognition"
    assert "'text'" in capsys.readouterr().out


def test_links_into_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_layout_names_only_what_exists() -> None:
    """Each line begins with a folder, or, indented, with files of the folder above it."""
    (block,) = code_blocks("text")
    folder = ROOT
    for line in block.splitlines():
        entries = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.startswith(" "):
            folder = ROOT / entries[0]
            assert folder.is_dir(), line
            continue
        for entry in entries:
            assert [*folder.glob(entry), *folder.glob(f"{entry}.py")], line


def test_results_are_those_of_the_bundled_weights() -> None:
    """The numbers in the README are what `make bench` measured with the weights that lie beside them."""
    results = json.loads((default_checkpoint() / "results.json").read_text(encoding="utf-8"))
    assert results["checkpoint"]["sha256"] == checkpoint_hash(default_checkpoint())
    assert fill_results.main([str(ROOT / "README.md"), "--check"]) == 0
