r"""Publish a checkpoint: a folder for the Hub that anybody can load, checked, and pushed when asked.

Look first; nothing leaves this machine:
    python -m training.publish_checkpoint default --repo-id my-name/my-reader
A run of `run_finetuning` or `run_pretraining` (its `final/`), or any folder of `save_pretrained`, pushed:
    python -m training.publish_checkpoint runs/mine --repo-id my-name/my-reader --push
Private at first, weights in files of at most 1 GB, with ONNX beside them and a Space to try it in:
    python -m training.publish_checkpoint runs/mine --repo-id my-name/my-reader --push --private \
        --max-shard-size 1GB --onnx --space

The folder (`hub_folder` says what is in it) is read in a process that lacks this package before it gets its
name: `hub_check` compares weights, logits, losses and texts with the source, and nothing is written or pushed
when they differ. What a person needs for `--push` (an account and a token): docs/publishing.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from training.hub_check import HubReading
from training.hub_folder import (
    MANIFEST_FILE,
    check_repo_id,
    import_for_option,
    refuse_foreign_folder,
    refuse_pickles,
    write_hub_folder,
    write_manifest,
)
from training.hub_source import open_checkpoint
from training.run_state import whole_folder

DEFAULT_OUTPUT = Path("runs") / "hub"


def main(argv: Sequence[str]) -> int:
    """Options → source → folder, checked → Space → push; the exit status."""
    options = parse_publishing_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check_repo_id(options.repo_id)
    push = import_for_option("training.hub_push", "--push") if options.push else None
    demo = import_for_option("training.space_files", "--space") if options.space else None
    source = open_checkpoint(options.source)
    folder = options.output if options.output is not None else DEFAULT_OUTPUT / options.repo_id
    named = f"{type(source.model).__name__}, weights {source.weights[:16]}"
    print(f"source: {source.folder}, {named}", flush=True)
    if demo is not None and source.kind != "recogniser":
        raise ValueError(f"a Space reads words; {source.folder} is {source.kind}: leave `--space` out.")
    reading = write_hub_folder(source, folder, options.repo_id, options.max_shard_size, options.onnx)
    print_folder(folder, reading)
    space = None if demo is None else write_space_folder(folder, options.repo_id, demo.write_space)
    if space is not None:
        print(f"space: {space}")
    if push is None:
        print("not pushed; the same command with --push sends it to the Hub")
        return 0
    for place, repo_type in ((folder, "model"), (space, "space")):
        if place is not None:
            answer = push.push_folder(
                place,
                options.repo_id,
                private=options.private,
                branch=options.branch if repo_type == "model" else None,
                message=f"Publish {named}",
                repo_type=repo_type,
            )
            print(f"pushed {repo_type}: {answer}", flush=True)
    return 0


def parse_publishing_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.publish_checkpoint", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "source", help="`default`, a run's folder, or a folder of `save_pretrained`", metavar="SOURCE"
    )
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository on the Hub")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"what to write; {DEFAULT_OUTPUT}/ORG/NAME without it"
    )
    parser.add_argument("--push", action="store_true", help="send the checked folder to the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", help="push to this branch instead of main")
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="largest file of weights (default 5GB)"
    )
    parser.add_argument("--onnx", action="store_true", help="export ONNX beside the weights")
    parser.add_argument("--space", action="store_true", help="also write a demo Space, to FOLDER-space")
    options = parser.parse_args(argv)
    if not options.push and (options.private or options.branch):
        parser.error("--private and --branch say how to push; add --push, or leave them out.")
    return options


def write_space_folder(folder: Path, repo_id: str, write_space: Callable[[Path, str], None]) -> Path:
    """Write the demo Space of a published recogniser beside its folder.

    Args:
        folder: of the recogniser.
        repo_id: of the recogniser; the Space bears the same name.
        write_space: fills an empty folder for a recogniser's repository.

    Returns:
        `FOLDER-space`.

    Raises:
        ValueError: when that holds something else.
    """
    place = folder.resolve().with_name(f"{folder.name}-space")
    refuse_foreign_folder(place)
    with whole_folder(place) as staging:
        write_space(staging, repo_id)
        refuse_pickles(staging)
        write_manifest(staging, {"repo_id": repo_id})
    return place


def print_folder(folder: Path, reading: HubReading) -> None:
    """Say what was written and what the check saw."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    code = [path for path in files if path.suffix == ".py"]
    for path in files:
        if path not in code:
            print(f"  {path.stat().st_size:>12,}  {path.relative_to(folder).as_posix()}")
    print(f"  {sum(path.stat().st_size for path in code):>12,}  {len(code)} modules")
    print(f"read without the package as the source reads: {', '.join(reading.parts)}")
    if reading.texts:
        print(f"words: {' '.join(reading.texts)}")
    print(f"written: {folder} ({len(files)} files, listed in {MANIFEST_FILE})", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
