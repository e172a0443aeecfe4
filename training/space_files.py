"""The files of a Space: the demo page for one published recogniser, on Hugging Face's or anybody's server.

    from training.space_files import write_space
    write_space(Path("space"), "ORG/NAME")

The Space loads the recogniser from its Hub repository with `trust_remote_code=True` and carries the modules
of the page itself, so it needs the published libraries of its requirements.txt and not our package.
"""

import configparser
import re
import shutil
from pathlib import Path

from huggingface_hub import SpaceCardData
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_rcmstr import demo_page
from training.run_state import whole_folder

ROOT = Path(__file__).resolve().parent.parent
# Of the Space; the page's modules import each other as siblings.
PAGE_PACKAGE = "word_page"
PYTHON_VERSION = "3.11"

APP = '''"""The page of a Space: reads words with {repo_id}."""

from transformers import pipeline

from {package}.demo_page import build_page, serve_page

MODEL = "{repo_id}"

if __name__ == "__main__":
    reader = pipeline("text-recognition", model=MODEL, trust_remote_code=True)
    page = build_page(reader, MODEL)
    print(serve_page(page), flush=True)
    page.block_thread()
'''
README = """---
{metadata}
---

# Read words with {repo_id}

Drop or paste pictures of words; see the text, the model's own probability of it, the frame of each character,
and which pixels the text hangs on. One word, or one short line, per picture.

The recogniser, and the code that runs it, come from [{repo_id}](https://huggingface.co/{repo_id}) when the
Space starts. The page is in `{package}/`. Both need the libraries of `requirements.txt` and nothing else.
On a machine of your own: `pip install -r requirements.txt`, then `python app.py`.
"""


def write_space(folder: Path, repo_id: str) -> None:
    """Write the files of a Space that reads with a published recogniser.

    They appear together: when one cannot be written, `folder` is as it was.

    Args:
        folder: where to write; new or empty.
        repo_id: ORG/NAME of the recogniser's repository on the Hub.

    Raises:
        ValueError: for a name that no repository can have, or a folder that holds something.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"`repo_id` must be ORG/NAME, as a Space finds it, got {repo_id!r}.")
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be a new or an empty folder; give another, or empty it first.")
    with whole_folder(folder) as staging:
        _write_page(staging / PAGE_PACKAGE)
        texts = {
            "app.py": APP.format(repo_id=repo_id, package=PAGE_PACKAGE),
            "requirements.txt": "".join(f"{line}\n" for line in requirements()),
            "README.md": README.format(
                metadata=space_metadata(repo_id).to_yaml(), repo_id=repo_id, package=PAGE_PACKAGE
            ),
        }
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        for name in ("LICENSE", "NOTICE"):
            shutil.copyfile(ROOT / name, staging / name)


def requirements() -> list[str]:
    """List what the page and a recogniser need, as setup.cfg declares it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return [
        *setup["options"]["install_requires"].split(),
        *setup["options.extras_require"]["demo"].split(),
    ]


def space_metadata(repo_id: str) -> SpaceCardData:
    """Describe the Space to the Hub; its Gradio is the one that the tests pass with."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (gradio,) = re.findall(r"^gradio==(\S+)$", constraints, flags=re.MULTILINE)
    return SpaceCardData(
        title="Read words",
        short_description="The text in pictures of words, and where it comes from",
        sdk="gradio",
        sdk_version=gradio,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        models=[repo_id],
        license="apache-2.0",
        colorFrom="green",
        colorTo="gray",
        pinned=False,
    )


def _write_page(folder: Path) -> None:
    """Copy the page's module with all that it imports from our package, and its pictures."""
    folder.mkdir()
    (folder / "__init__.py").write_text('"""The page of this Space."""\n', encoding="utf-8")
    page = Path(demo_page.__file__)
    for module in [str(page), *get_relative_import_files(page)]:
        shutil.copyfile(module, folder / Path(module).name)
    pictures = folder / demo_page.EXAMPLES.name
    pictures.mkdir()
    for word in demo_page.example_words():
        shutil.copyfile(word, pictures / word.name)
