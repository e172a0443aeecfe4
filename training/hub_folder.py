"""The published folder: weights, configuration, processor, the code that runs them, card and records.

    config.json, model.safetensors (or shards and their index), generation_config.json (attention)
    preprocessor_config.json; of a recogniser processor_config.json, tokenizer_config.json, vocab.json
    *.py       flat: the modules that the named classes import, and no others
    README.md  the card; results.json, speed.json, training_record.json and card/ as far as the source has
               them
    LICENSE, NOTICE of the code; onnx/ on request
    publication.json   what was published, and every file with its SHA-256

The classes themselves are not told to save their code (`register_for_auto_class`): that would change them
for the rest of the process. The folder appears whole and checked or not at all.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

import modeling_rcmstr
from modeling_rcmstr import (
    CharacterTokenizer,
    TextRecognitionImageProcessor,
    TextRecognitionPipeline,
    TextRecognitionProcessor,
)
from training.benchmark_measurement import checkpoint_hash
from training.hub_check import HubReading, check_hub_folder
from training.hub_reader import TASK
from training.hub_source import WEIGHTS_FILE, HubSource, open_checkpoint
from training.model_card import render_card
from training.run_state import whole_folder, write_json_file

ROOT = Path(__file__).resolve().parent.parent
MANIFEST_FILE = "publication.json"
LICENCE_FILES = ("LICENSE", "NOTICE")
ONNX_FOLDER = "onnx"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
# How a tokenizer was loaded, which the library keeps and saves as if it belonged to it.
LOADING_OPTIONS = ("is_local", "local_files_only")
# What tools of the Hub and desktops leave in a folder.
IGNORED_NAMES = (".cache", ".DS_Store")
SHARD_SIZE = re.compile(r"[1-9]\d*[KMGT]B")
# An absolute path, alone or after the kind of a source of words ("folder:/home/me/words").
LOCAL_PATH = re.compile(r"(?:(?<=^)|(?<=:))(?:[A-Za-z]:[\\/]|/(?!/)|~/)(?:[^\\/]+[\\/])*(?=[^\\/]*$)")


def write_hub_folder(
    source: HubSource | str | Path,
    folder: Path,
    repo_id: str,
    max_shard_size: str = "5GB",
    onnx: bool = False,
) -> HubReading:
    """Write the folder of a repository on the Hub; it gets its name when it was read without the package.

    Args:
        source: what to publish; what `open_checkpoint` takes, or gave.
        folder: where; it may exist when it is empty or was written by this function and not touched since.
        repo_id: "organisation/name" of the repository, for the card.
        max_shard_size: weights beyond it go into several files, for example "5GB".
        onnx: export the recogniser beside the weights.

    Returns:
        What the check saw.

    Raises:
        ValueError: for a source, a name, a folder or an option that cannot be used.
        HubFolderError: (a ValueError) when the folder does not do what the source does. Then, as after any
            other error, what was there before is still there.
    """
    check_repo_id(repo_id)
    if not isinstance(source, HubSource):
        source = open_checkpoint(source)
    folder = folder.resolve()
    refuse_foreign_folder(folder)
    with whole_folder(folder) as staging:
        fill_hub_folder(source, staging, repo_id, max_shard_size, onnx)
        reading = check_hub_folder(staging, source)
        write_manifest(staging, _identity(source, repo_id))
    return reading


def fill_hub_folder(
    source: HubSource, folder: Path, repo_id: str, max_shard_size: str = "5GB", onnx: bool = False
) -> None:
    """Write all files but the manifest into an empty folder, unchecked; see `write_hub_folder`.

    Raises:
        ValueError: for an option that cannot be used, and when a file turns out to be a pickle.
    """
    if onnx and source.kind != "recogniser":
        raise ValueError(f"ONNX is for recognisers; {source.folder} is {source.kind}: leave `--onnx` out.")
    if not SHARD_SIZE.fullmatch(max_shard_size):
        raise ValueError(
            f"`--max-shard-size` must be a number of KB, MB, GB or TB like 5GB, got {max_shard_size!r}."
        )
    _write_model(source, folder, max_shard_size)
    for path in code_files(source):
        shutil.copyfile(path, folder / path.name)
    renamed = {source.weights: checkpoint_hash(folder)}
    for record in source.records:
        copy_record(record, folder / record.relative_to(source.folder), renamed)
    for name in LICENCE_FILES:
        shutil.copyfile(ROOT / name, folder / name)
    if onnx:
        export = import_for_option("modeling_rcmstr.onnx_export", "--onnx").export_onnx
        export(source.model, source.processor, folder / ONNX_FOLDER)
    (folder / "README.md").write_text(_card(source, folder, repo_id), encoding="utf-8")
    refuse_pickles(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes files that only we may read


def import_for_option(module: str, option: str) -> ModuleType:
    """Import what only an option of the command needs.

    Raises:
        ValueError: when it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"`{option}` needs {error.name}, which cannot be imported: {error}") from error


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ValueError: when it is not "organisation/name" by the Hub's rules.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`--repo-id` must be ORGANISATION/NAME, got {repo_id!r}.")
    validate_repo_id(repo_id)


def auto_map(source: HubSource) -> dict[str, str]:
    """Name the configuration's class and those of the model as config.json does."""
    classes = {"AutoConfig": type(source.model.config), **source.model_classes}
    return {auto: _reference(named) for auto, named in classes.items()}


def code_files(source: HubSource) -> list[Path]:
    """The modules of the package that a published source needs: those of its classes, and their imports."""
    classes: list[type] = [TextRecognitionImageProcessor]
    if source.kind == "recogniser":
        classes += [CharacterTokenizer, TextRecognitionProcessor, TextRecognitionPipeline]
    modules = {reference.partition(".")[0] for reference in auto_map(source).values()}
    package = Path(inspect.getfile(modeling_rcmstr)).parent
    roots = {package / f"{module}.py" for module in modules} | {Path(inspect.getfile(own)) for own in classes}
    return sorted(roots | {Path(found) for root in roots for found in get_relative_import_files(root)})


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse to write over anything but a folder that was published here and left as it was.

    Raises:
        ValueError: naming a file that would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name another `--output`.")
    files = _files(folder)
    manifest = folder / MANIFEST_FILE
    if not files:
        return
    if not manifest.is_file():
        raise ValueError(
            f"{folder} is not empty and was not written by this command ({files[0]}, …); name another "
            "`--output`, or empty it."
        )
    written = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    for name in files:
        if name != MANIFEST_FILE and written.get(name) != _sha256(folder / name):
            raise ValueError(
                f"{folder / name} was {'changed' if name in written else 'added'} after the folder was "
                "written and would be lost; move it away, or name another `--output`."
            )


def write_manifest(folder: Path, identity: dict[str, Any]) -> None:
    """Write what was published and the hash of every file; the folder may be written over from then on."""
    files = {name: _sha256(folder / name) for name in _files(folder)}
    write_json_file(folder / MANIFEST_FILE, {**identity, "files": files})


def refuse_pickles(folder: Path) -> None:
    """Refuse files that run code when they are loaded.

    Raises:
        ValueError: naming one, by its suffix or by how it begins.
    """
    for name in _files(folder):
        path = folder / name
        with path.open("rb") as file:
            start = file.read(2)
        is_pickle = len(start) == 2 and start[0] == 0x80 and start[1] <= 5
        if zipfile.is_zipfile(path):  # as torch.save writes it
            with zipfile.ZipFile(path) as archive:
                is_pickle |= any(member.endswith(PICKLE_SUFFIXES) for member in archive.namelist())
        if is_pickle or path.suffix.lower() in PICKLE_SUFFIXES:
            raise ValueError(f"{name} is a pickle, which runs code when it is loaded, and is not published.")


def copy_record(record: Path, target: Path, renamed: Mapping[str, str]) -> None:
    """Copy a record, or a part of the card.

    Args:
        record: the file.
        target: where to; its folder is made.
        renamed: fingerprints by the one that the record has: the same weights in shards are other files. Of
            paths of this machine only the last part is copied.
    """
    target.parent.mkdir(exist_ok=True)
    content = json.loads(record.read_text(encoding="utf-8")) if record.suffix == ".json" else None
    public = _published_value(content, renamed)
    if public == content:
        shutil.copyfile(record, target)
    else:
        write_json_file(target, public)


def _write_model(source: HubSource, folder: Path, max_shard_size: str) -> None:
    """Weights, configuration and processor, as `save_pretrained` writes them and with their auto_map."""
    source.model.save_pretrained(folder, state_dict=dict(source.tensors), max_shard_size=max_shard_size)
    # The very bytes where they fit, so that measurements keep naming them.
    if (folder / WEIGHTS_FILE).is_file() and (source.folder / WEIGHTS_FILE).is_file():
        shutil.copyfile(source.folder / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    source.image_processor.save_pretrained(folder)
    image_map = {"AutoImageProcessor": _reference(TextRecognitionImageProcessor)}
    _edit_json(folder / "preprocessor_config.json", auto_map=image_map)
    model_fields: dict[str, Any] = {"auto_map": auto_map(source)}
    if source.processor is not None:
        source.processor.save_pretrained(folder)
        own_map = {"AutoProcessor": _reference(TextRecognitionProcessor)}
        processor_file = folder / "processor_config.json"
        nested = json.loads(processor_file.read_text(encoding="utf-8"))["image_processor"]
        _edit_json(processor_file, auto_map=own_map, image_processor={**nested, "auto_map": image_map})
        # A tokenizer has a second place, for a fast one.
        tokenizer_map = {"AutoTokenizer": [_reference(CharacterTokenizer), None], **own_map}
        _edit_json(folder / "tokenizer_config.json", without=LOADING_OPTIONS, auto_map=tokenizer_map)
        pipeline = {"impl": _reference(TextRecognitionPipeline), "pt": ["AutoModelForTextRecognition"]}
        model_fields["custom_pipelines"] = {TASK: {**pipeline, "type": "image"}}
    _edit_json(folder / "config.json", **model_fields)


def _card(source: HubSource, folder: Path, repo_id: str) -> str:
    """The card, from what lies in the folder; a short one of a bare encoder, of which no run tells."""
    if source.kind != "encoder":
        return render_card(folder, repo_id)
    return (
        f"---\nlibrary_name: transformers\ntags:\n  - {TASK}\n  - {source.model.config.model_type}\n---\n\n"
        f"# {repo_id.partition('/')[2]}\n\nA `{type(source.model).__name__}` of modeling_rcmstr.\n\n"
        "```python\nfrom transformers import AutoModel\n\n"
        f'model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)\n```\n'
    )


def _identity(source: HubSource, repo_id: str) -> dict[str, Any]:
    return {
        "repo_id": repo_id,
        "architecture": type(source.model).__name__,
        "kind": source.kind,
        "modeling_rcmstr": modeling_rcmstr.__version__,
        "source_weights_sha256": source.weights,
    }


def _reference(named: Any) -> str:
    """A class as the Hub's files name it: its module's own name and its name."""
    return f"{named.__module__.rpartition('.')[2]}.{named.__name__}"


def _edit_json(path: Path, without: Sequence[str] = (), **fields: Any) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **fields}
    content = {name: value for name, value in content.items() if name not in without}
    path.write_text(
        json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _files(folder: Path) -> list[str]:
    """Names of all files of a folder, relative to it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found if not set(path.parts) & set(IGNORED_NAMES))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _published_value(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            _published_value(key, renamed): _published_value(item, renamed) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_published_value(item, renamed) for item in value]
    return renamed.get(value, LOCAL_PATH.sub("", value)) if isinstance(value, str) else value
