"""Execute notebooks from a fresh kernel and store them with outputs that are clean enough to commit.

    python -m training.run_notebooks notebooks/*.ipynb
    python -m training.run_notebooks notebooks/read_words.ipynb --output runs/read_words

The kernel is this very interpreter, offline, in the repository's folder. What changes from run to run and
says nothing is left out: times of execution, progress bars, versions of the kernel. A notebook whose cell
fails, or whose outputs tell of the machine that it ran on, is not stored, and the exit status is 1. Settings
of a notebook may be replaced by environment variables; its settings cell names them.
"""

from __future__ import annotations

import argparse
import ast
import getpass
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 400_000
CELL_LIMIT_S = 1800
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Folders in which people's files lie, and temporary ones.
PLACES = r"/(?:home|root|Users|tmp|private|var/folders|work|content)/[\w.-]+|[A-Za-z]:\\Users\\[\w.-]+"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Lines that say when instead of what: progress bars, and logs of libraries with the time in front.
PROGRESS = re.compile(r"^.*\d+%\|.*\|.*$|^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[\d,.]*\] .*$")


def main(argv: Sequence[str] | None = None) -> int:
    """Execute, clean, check and store each notebook."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, help="files ending in .ipynb")
    parser.add_argument("--output", type=Path, help="folder for the executed files (default: in their place)")
    options = parser.parse_args(argv)
    failed = 0
    for path in options.notebooks:
        begun = time.monotonic()
        try:
            notebook = execute_notebook(path, ROOT)
            clean_notebook(notebook)
            if problems := list(find_problems(notebook)):
                raise ValueError("; ".join(problems))
        except (ValueError, OSError, CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path} is not stored: {ESCAPES.sub('', str(error))}", file=sys.stderr)
            failed += 1
            continue
        target = path if options.output is None else options.output / path.name
        size = store_notebook(notebook, target)
        print(f"{target}: {len(notebook.cells)} cells, {time.monotonic() - begun:.0f} s, {size // 1000} kB")
    return int(failed > 0)


def execute_notebook(
    path: Path, folder: Path, environment: Mapping[str, str] | None = None, limit_s: int = CELL_LIMIT_S
) -> NotebookNode:
    """Run all cells in a kernel of their own, of the running interpreter, offline.

    Args:
        path: of the notebook, which is left as it is.
        folder: in which the kernel starts.
        environment: what its environment has beside this process's.
        limit_s: seconds that one cell may take.

    Returns:
        The notebook with its outputs.

    Raises:
        ValueError: for a file that is no notebook.
        CellExecutionError: when a cell fails, with what it said.
        CellTimeoutError: when one takes too long.
    """
    notebook = read_notebook(path)
    with tempfile.TemporaryDirectory() as temporary:
        # A specification of its own: one of that name installed elsewhere may start another interpreter.
        write_kernel_spec(Path(temporary) / "kernels" / KERNEL["name"])
        kernel = AsyncKernelManager(
            kernel_name=KERNEL["name"],
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(Path(temporary) / "kernels")]),
            connection_file=str(Path(temporary) / "connection.json"),
            # Sockets in that folder where there are such, which nobody else can reach.
            transport="ipc" if os.name == "posix" else "tcp",
        )
        variables = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # Nobody's own start-up files, and no trace in anybody's history.
            "IPYTHONDIR": str(Path(temporary) / "ipython"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            # Of tqdm, where the widgets for its bars are missing.
            "PYTHONWARNINGS": "ignore:IProgress not found",
            "COLUMNS": "110",
            **(environment or {}),
        }
        client = NotebookClient(notebook, timeout=limit_s, km=kernel, record_timing=False)
        client.execute(cwd=str(folder), env=variables, cleanup_kc=True)
    return notebook


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of format 4.

    Raises:
        ValueError: for a file that is none.
    """
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0][:200]
        raise ValueError(f"{path} is no valid notebook ({first}); open and save it in Jupyter.") from error
    return notebook


def clean_notebook(notebook: NotebookNode) -> None:
    """Take out what changes from run to run: metadata, progress bars, times; join pieces of one stream."""
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = _cleaned(cell.outputs)


def find_problems(notebook: NotebookNode) -> Iterator[str]:
    """What keeps a notebook from being committed, in words."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        number += 1
        if cell.execution_count != number:
            yield f"code cell {number} has the count {cell.execution_count}; run all cells in order, once"
        yield from (f"code cell {number} {fault}" for fault in _faults_of(cell))
    if not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"):
        yield "no cell has an output; run it with `python -m training.run_notebooks`"
    size = len(nbformat.writes(notebook).encode())
    if size > LIMIT_BYTES:
        yield f"it has {size:,} bytes, more than {LIMIT_BYTES:,}; make its pictures smaller"


def store_notebook(notebook: NotebookNode, path: Path) -> int:
    """Write a notebook whole or not at all; the number of its bytes."""
    content = (nbformat.writes(notebook).rstrip("\n") + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return len(content)


def defined_names(source: str) -> list[str]:
    """The functions and classes that a cell defines; lines of IPython's own are passed over."""
    joined = source.replace("\\\n", " ")
    if joined.lstrip().startswith("%%"):
        return []
    plain = re.sub(r"^(\s*)[!%].*$", r"\1pass", joined, flags=re.MULTILINE)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.walk(ast.parse(plain)) if isinstance(node, kinds)]


def _faults_of(cell: NotebookNode) -> Iterator[str]:
    if names := defined_names(cell.source):
        yield f"defines {', '.join(names)}; what is worth a name belongs into the package or training/"
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"failed: {output.ename}: {output.evalue}"
            continue
        for text in _texts_of(output):
            for trace in _traces_of_machine(text):
                yield f"shows {trace!r}, which is of this machine only; print relative paths"


def _texts_of(output: NotebookNode) -> Iterator[str]:
    if output.output_type == "stream":
        yield output.text
    else:
        data: dict[str, Any] = output.get("data", {})
        yield from (text for kind, text in data.items() if kind.startswith("text/"))


def _traces_of_machine(text: str) -> Iterator[str]:
    yield from sorted(set(re.findall(PLACES, text)))
    for name in {getpass.getuser(), socket.gethostname()} - {"root", "user", "localhost"}:
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            yield name


def _cleaned(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs without metadata, progress bars and pictures that come twice."""
    joined = _joined_streams(outputs)
    for output in joined:
        if output.output_type == "stream":
            output.text = _plain(output.text)
        if "metadata" in output:
            output.metadata = NotebookNode()
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)
    # What stood between two pieces may be gone.
    return _joined_streams([one for one in joined if one.output_type != "stream" or one.text.strip()])


def _joined_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs with neighbouring pieces of one stream in one."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _plain(text: str) -> str:
    """What a terminal would show in the end: no escapes, no overwritten text, no progress."""
    lines = ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    kept = [line for line in shown if not PROGRESS.match(line)]
    return "\n".join(kept)


if __name__ == "__main__":
    sys.exit(main())
