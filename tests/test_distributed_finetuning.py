"""Fine-tuning on two processes, gloo, against one process with all of the words.

Each start of two processes takes ten seconds and more, most of it imports.
"""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import TINY_SIZES
from tests.pretraining_settings import losses_of, read_log, write_words
from tests.pretraining_settings import write_run as write_pretraining_run
from tests.programs import run_processes
from training.process_setup import LONGEST_WAIT
from training.run_finetuning import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("restored_process")]

COMMAND = ["-m", "training.run_finetuning"]
# Writes rates, seed and patience of each process, and has the second one told to stop within the third.
WATCHED = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, os.getcwd())
from training.process_exit import leave_process
from training.run_finetuning import main
from training.word_trainer import WordTrainer

step = WordTrainer.training_step
rank = os.environ["RANK"]

def training_step(self, *arguments):
    folder = Path(sys.argv[1]).parent
    (folder / f"seed-{rank}.txt").write_text(str(torch.initial_seed()))
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    (folder / f"patience-{rank}.txt").write_text(str(group.options._timeout.total_seconds()))
    with (folder / f"rates-{rank}.txt").open("a") as file:
        print(self.state.global_step, self.optimizer.param_groups[0]["lr"], file=file)
    if "stop" in os.environ and rank == "1" and self.state.global_step == 2:
        for _ in range(2):  # as a launcher passes on what its group has received
            os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments)

WordTrainer.training_step = training_step
leave_process(main(sys.argv[1:]))
"""
# Each process writes to a folder of its own, as nodes without a shared file system would.
UNSHARED = """
import os, sys
from importlib import import_module
sys.path.insert(0, os.getcwd())
from training.process_exit import leave_process

command, settings, folder = sys.argv[1:]
try:
    import_module(command).main([settings, f"output_dir={folder}-{os.environ['RANK']}"])
except ValueError as error:
    print(error)
leave_process(0)
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words", 32)


def write_run(folder: Path, words: Path, **settings: Any) -> Path:
    """Write `model.json` and `run.yaml` of a tiny run into a folder; returns the YAML file."""
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"model_type": "rcmstr", **TINY_SIZES}))
    run: dict[str, Any] = {
        "train_sources": {f"folder:{words}": 1},
        "output_dir": str(folder / "run"),
        "model": str(folder / "model.json"),
        "charset": "alphanumeric-36",
        "data_workers": 0,
        "bucket_batches": 1,
        "max_steps": 4,
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "save_minutes": None,
        "eval_steps": 2,
        "log_steps": 1,
        "ema_decay": 0.9,
        "tensorboard": False,
        "threads": 1,
        **settings,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder / "run.yaml"


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "final" / "training_record.json").read_text())
    return content


def test_two_processes_with_half_of_the_words_each_equal_one(tmp_path: Path, words: Path) -> None:
    """Batch norm over all words, gradients that add, one log, one evaluation: the same run to rounding."""
    assert main([str(write_run(tmp_path / "one", words, batch_size=8))]) == 0
    config = write_run(tmp_path / "two", words, batch_size=4, save_steps=2)
    (ended,) = run_processes([*COMMAND, str(config)])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "words per update: 8 = 4 per batch x 1 batches x 2 processes" in ended.stdout
    one, two = tmp_path / "one/run", tmp_path / "two/run"
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    shown = [line for line in ended.stdout.splitlines() if line.startswith("step ")]
    assert len(shown) == len(read_log(two)) == len(read_log(one))
    for file in ("final", "best"):
        found, wanted = (load_file(str(run / file / "model.safetensors")) for run in (two, one))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    told, expected = record(two), record(one)
    assert (told["processes"], expected["processes"]) == (2, 1)
    for name in ("steps", "images_seen", "complete", "data"):
        assert told[name] == expected[name], name
    assert told["final"] == pytest.approx(expected["final"], abs=1e-6)
    shutil.rmtree(two / "checkpoints/checkpoint-4")
    with pytest.raises(ValueError, match="a run with 8 words per update, this one has 4"):
        main([str(config), "resume=true"])
    assert main([str(config), "resume=true", "batch_size=8"]) == 0
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-4)
    assert record(two)["processes"] == 1
    assert record(two)["data"]["counts"] == expected["data"]["counts"]


def test_a_signal_to_one_process_saves_the_run_of_both_and_it_goes_on_bit_for_bit(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "watched.py"
    program.write_text(WATCHED)
    settings = {"batch_size": 4, "max_steps": 5, "eval_steps": None, "bucket_batches": 3}
    whole = write_run(tmp_path / "whole", words, **settings)
    (ended,) = run_processes([*COMMAND, str(whole)])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    stopped = write_run(tmp_path / "stopped", words, **settings)
    monkeypatch.setenv("stop", "1")
    (ended,) = run_processes([str(program), str(stopped)])
    assert f"stopped by signal {signal.SIGTERM:d} after saving" in ended.stdout, ended.stdout + ended.stderr
    assert len(re.findall(rf"exitcode +: {128 + signal.SIGTERM}", ended.stderr)) == 2
    first, second = tmp_path / "whole/run", tmp_path / "stopped/run"
    assert [path.name for path in (second / "checkpoints").iterdir()] == ["checkpoint-3"]
    (ended,) = run_processes([*COMMAND, str(stopped), "resume=true"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found, wanted = (load_file(str(run / "final/model.safetensors")) for run in (second, first))
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert losses_of(second) == losses_of(first)
    assert record(second)["data"]["counts"] == record(first)["data"]["counts"]


@pytest.mark.parametrize("command", ["run_finetuning", "run_pretraining"])
def test_processes_without_a_shared_folder_are_refused(tmp_path: Path, words: Path, command: str) -> None:
    program = tmp_path / "unshared.py"
    program.write_text(UNSHARED)
    write = write_run if command == "run_finetuning" else write_pretraining_run
    config = write(tmp_path / "settings", words)
    (ended,) = run_processes([str(program), f"training.{command}", str(config), str(tmp_path / "run")])
    assert ended.stdout.count("must lie on a file system that all processes of the run share") == 2, (
        ended.stdout + ended.stderr
    )


def test_by_the_clock_both_processes_use_the_same_rate_and_their_own_dropout(
    tmp_path: Path, words: Path
) -> None:
    program = tmp_path / "watched.py"
    program.write_text(WATCHED)
    by_time = {"schedule_by": "time", "max_steps": None, "max_minutes": 0.05, "schedule": "linear"}
    (ended,) = run_processes(
        [str(program), str(write_run(tmp_path / "run", words, batch_size=4, eval_steps=None, **by_time))]
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    first, second = ((tmp_path / f"run/rates-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    seeds = {(tmp_path / f"run/seed-{rank}.txt").read_text() for rank in (0, 1)}
    assert len(seeds) == 2
    for rank in (0, 1):
        patience = float((tmp_path / f"run/patience-{rank}.txt").read_text())
        assert patience == LONGEST_WAIT.total_seconds(), "the first process's evaluations may be long"
    assert len(set(re.findall(r"^\d+ (\S+)$", first, flags=re.MULTILINE))) > 1
    assert record(tmp_path / "run/run")["complete"]
