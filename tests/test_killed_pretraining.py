"""Pretraining that is killed at any moment and started again is the run that was left alone, bit for bit."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pretraining_settings import read_log, write_run, write_words
from tests.programs import run_program
from training.run_pretraining import main

LOOP, CHECKPOINT = "training.pretraining_loop", "training.pretraining_checkpoint"
# (module, function, call): a session kills itself at this call; then the checkpoints that it leaves.
RCMSTR_MOMENTS = [
    ((LOOP, "PretrainingLoop._clip", 4), [2]),  # within the fourth update
    ((CHECKPOINT, "save_pretrained_model", 1), [2]),  # before the first file of a checkpoint
    ((CHECKPOINT, "random_state", 1), [2]),  # before its last file
    ((CHECKPOINT, "prune", 1), [2, 4]),  # it has its name, and the older one is still there
    (("training.run_pretraining", "save_pretrained_model", 1), [6]),  # inside `final`
]
# Saved in the middle of a chunk of two batches, with dropout: the data's position and the generators count.
PERSEC_SETTINGS: dict[str, Any] = {
    "fields": {"hidden_dropout_prob": 0.1},
    "bucket_batches": 2,
    "save_steps": 3,
}
PERSEC_MOMENTS = [((CHECKPOINT, "random_state", 2), [3])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "encoder", "settings", "moments"),
    [
        ("rcmstr", "cnn", {"save_steps": 2}, RCMSTR_MOMENTS),
        ("persec", "vit", PERSEC_SETTINGS, PERSEC_MOMENTS),
    ],
)
def test_kill_minus_9_at_any_moment_loses_no_bit(
    tmp_path: Path, family: str, encoder: str, settings: dict[str, Any], moments: list[Any]
) -> None:
    words = write_words(tmp_path / "words")
    settings = {
        "max_steps": 6,
        "batch_size": 2,
        "warmup_steps": 3,
        "weight_decay": 0.05,
        "keep_checkpoints": 1,
        **settings,
    }
    whole, killed = (
        write_run(tmp_path / name, words, family, encoder, **settings) for name in ("whole", "killed")
    )
    assert main([str(whole)]) == 0
    kills = json.dumps([moment for moment, _ in moments])
    done = run_program([sys.executable, "-c", SESSIONS, str(killed), str(tmp_path / "killed/run"), kills])
    assert done.returncode == 0, done.stdout + done.stderr
    left = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("left ")]
    assert left == [[-signal.SIGKILL, steps] for _, steps in moments], done.stderr
    assert main([str(killed), "resume=true"]) == 0
    first, second = (tmp_path / name / "run" for name in ("whole", "killed"))
    assert [path.name for path in (second / "checkpoints").iterdir()] == ["checkpoint-6"], (
        "half-written and old folders are cleared away"
    )
    expected, found = (contents(run / "checkpoints/checkpoint-6") for run in (first, second))
    wanted = {"model.safetensors", "objective.safetensors", "progress.json"}
    wanted |= {f"{part}-00000.{kind}" for part in ("optimizer", "random") for kind in ("json", "safetensors")}
    assert wanted <= expected.keys() == found.keys()
    assert [name for name, content in expected.items() if found[name] != content] == []
    assert (second / "final/model.safetensors").read_bytes() == expected["model.safetensors"]
    shown = ("step", "loss", "gradient_norm", "learning_rate", "images")
    lines, again = ([[entry[name] for name in shown] for entry in read_log(run)] for run in (first, second))
    assert again == lines
    assert [line[0] for line in lines] == [1, 2, 3, 4, 5, 6]


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a checkpoint, byte by byte; of the progress all but the time."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    progress = json.loads(files["progress.json"])
    assert progress.pop("seconds") > 0
    return files | {"progress.json": progress}


# One session after the other, each in a process of its own that begins after the imports: those take longer
# than the sessions.
SESSIONS = """
import importlib, json, os, pathlib, signal, sys, traceback
from training.run_pretraining import main
from training.run_state import checkpoints

def kill_at(module, function, call):
    owner = importlib.import_module(module)
    *path, name = function.split(".")
    for part in path:
        owner = getattr(owner, part)
    wrapped, calls = getattr(owner, name), []
    def killing(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*args, **kwargs)
    setattr(owner, name, killing)

config, run, moments = sys.argv[1:]
for moment in json.loads(moments):
    child = os.fork()
    if not child:
        try:
            kill_at(*moment)
            main([config, "resume=true"])
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    steps = [int(path.name.split("-")[1]) for path in checkpoints(pathlib.Path(run) / "checkpoints")]
    print("left", json.dumps([status, steps]), flush=True)
"""
