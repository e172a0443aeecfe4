"""What a published folder may not hold, and whose folders are not written over."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_rcmstr import default_checkpoint
from training.hub_folder import (
    check_repo_id,
    copy_record,
    refuse_foreign_folder,
    refuse_pickles,
    write_hub_folder,
    write_manifest,
)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_folders_of_others_are_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    refuse_foreign_folder(folder)
    folder.mkdir()
    refuse_foreign_folder(folder)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"not empty and was not written by this command \(thesis.tex"):
        refuse_foreign_folder(folder)
    write_manifest(folder, {"repo_id": "org/name"})
    refuse_foreign_folder(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.md").write_text("mine")
    with pytest.raises(ValueError, match="mine.md was added after the folder was written and would be lost"):
        refuse_foreign_folder(folder)
    (folder / "notes" / "mine.md").unlink()
    (folder / "thesis.tex").write_text("another year")
    with pytest.raises(ValueError, match="thesis.tex was changed after"):
        refuse_foreign_folder(folder)
    with pytest.raises(ValueError, match="is a file; name another"):
        refuse_foreign_folder(folder / "thesis.tex")


@pytest.mark.parametrize(
    "repo_id", ["name", "a/b/c", "org/", "/name", "org/na me", "org/..", "-org/name", "org/name.git", ""]
)
def test_names_that_the_hub_does_not_take_are_refused(repo_id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"[Rr]epo"):
        write_hub_folder("default", tmp_path / "published", repo_id)
    assert list(tmp_path.iterdir()) == []
    check_repo_id("My-org/rcmstr_vit.small")


def write_torch(path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("training_args.bin", lambda path: path.write_text("harmless")),
        ("onnx/extra.PKL", lambda path: path.write_text("harmless")),
        ("weights", lambda path: path.write_bytes(pickle.dumps([1, 2], protocol=4))),
        ("weights.data", write_torch),
        ("numbers.npz", lambda path: np.savez(path, a=np.ones(2))),
    ],
)
def test_pickles_are_found_by_name_and_by_content(
    name: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("text")
    (tmp_path / "empty").touch()
    refuse_pickles(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is a pickle, which runs code"):
        refuse_pickles(tmp_path)


def test_records_tell_no_folder_of_this_machine(tmp_path: Path) -> None:
    record = {
        "settings": {
            "output_dir": "/home/me/runs/mine",
            "train_sources": {"folder:/home/me/words": 1, "rendered:training/configs/a.yaml": 0.5},
            "model": "C:\\Users\\me\\model",
            "cache": "~/cache/words",
        },
        "kept": ["https://example.org/a/b", "datasets:org/words", "1/2", "a / b", 3, None, True],
    }
    (tmp_path / "record.json").write_text(json.dumps(record))
    copy_record(tmp_path / "record.json", tmp_path / "copy.json", {})
    assert read(tmp_path / "copy.json") == {
        "settings": {
            "output_dir": "mine",
            "train_sources": {"folder:words": 1, "rendered:training/configs/a.yaml": 0.5},
            "model": "model",
            "cache": "words",
        },
        "kept": record["kept"],
    }
    # Without such a path, the very bytes.
    (tmp_path / "copy.json").unlink()
    copy_record(default_checkpoint() / "training_record.json", tmp_path / "copy.json", {})
    assert (tmp_path / "copy.json").read_bytes() == (
        default_checkpoint() / "training_record.json"
    ).read_bytes()
