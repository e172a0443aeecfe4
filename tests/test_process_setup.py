"""Joining processes: what a DeepSpeed configuration may say, and what is refused at once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from tests.programs import run_processes
from training.pretraining_arguments import PretrainingOptimisationArguments
from training.process_setup import (
    deepspeed_config,
    make_accelerator,
    refuse_lost_processes,
    runs_on_cpu,
    zero_stage,
)

CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ACCELERATE_USE_DEEPSPEED",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE",
        "ACCELERATE_MIXED_PRECISION",
    ):
        monkeypatch.delenv(name, raising=False)


def settings(**values: Any) -> PretrainingOptimisationArguments:
    return PretrainingOptimisationArguments(**values)


def write(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shipped_configurations_are_filled_from_the_run(stage: int) -> None:
    place = str(CONFIGS / f"deepspeed_zero{stage}.json")
    values = settings(
        deepspeed=place, batch_size=8, gradient_accumulation_steps=3, max_grad_norm=2.0, bf16=True
    )
    config = deepspeed_config(values, "persec")
    assert config is not None
    assert config["zero_optimization"]["stage"] == stage
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 2.0
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    if stage < 3:
        assert deepspeed_config(values, "rcmstr") == config


def test_zero_3_and_rcmstr_are_refused_with_the_reason() -> None:
    values = settings(deepspeed=str(CONFIGS / "deepspeed_zero3.json"))
    with pytest.raises(ValueError, match="momentum encoder is a float32 copy.*Use stage 1 or 2"):
        deepspeed_config(values, "rcmstr")
    with pytest.raises(ValueError, match="ZeRO stage 3 and RCMSTR do not go together"):
        make_accelerator(values, "rcmstr")


@pytest.mark.parametrize("section", ["optimizer", "scheduler", "fp16", "bf16"])
def test_what_the_run_decides_is_refused(tmp_path: Path, section: str) -> None:
    place = write(tmp_path, {section: {"enabled": True}})
    with pytest.raises(ValueError, match=f"leave out the section '{section}'"):
        deepspeed_config(settings(deepspeed=place), "persec")


def test_switched_off_precisions_may_stand(tmp_path: Path) -> None:
    place = write(tmp_path, {"bf16": {"enabled": False}, "zero_optimization": {"stage": 1}})
    assert deepspeed_config(settings(deepspeed=place), "rcmstr") is not None


def test_the_launchers_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deepspeed_config(settings(), "rcmstr") is None
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed without a configuration file"):
        deepspeed_config(settings(), "rcmstr")
    place = write(tmp_path, {"zero_optimization": {"stage": 2}})
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", place)
    config = deepspeed_config(settings(), "rcmstr")
    assert config is not None
    assert config["zero_optimization"] == {"stage": 2}
    with pytest.raises(ValueError, match="the file 'nowhere' does not exist"):
        deepspeed_config(settings(deepspeed="nowhere"), "rcmstr")


@pytest.mark.parametrize(("asked", "bf16"), [("fp16", False), ("fp16", True), ("bf16", False)])
def test_a_launcher_that_wants_another_precision_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: str, bf16: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    with pytest.raises(
        ValueError, match=f"mixed precision '{asked}': set `bf16: true` in the run's settings"
    ):
        make_accelerator(settings(bf16=bf16), "rcmstr")


def test_alone_a_process_needs_no_group() -> None:
    accelerator = make_accelerator(settings(gradient_accumulation_steps=4), "rcmstr")
    assert accelerator.num_processes == 1
    assert accelerator.gradient_accumulation_steps == 4
    assert zero_stage(accelerator) == 0
    assert accelerator.distributed_type == DistributedType.NO
    if not torch.cuda.is_available():
        assert accelerator.device.type == "cpu"
        assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_shipped_launcher_files_leave_precision_to_the_run() -> None:
    import yaml

    for name in ("accelerate_cpu", "accelerate_deepspeed"):
        launcher = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert launcher.get("mixed_precision", "no") == "no"
    place = launcher["deepspeed_config"]["deepspeed_config_file"]
    assert (CONFIGS.parents[1] / place).is_file()


def test_processes_that_did_not_find_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    refuse_lost_processes(3)
    with pytest.raises(RuntimeError, match="3 processes were started and 1 found each other"):
        refuse_lost_processes(1)


@pytest.mark.parametrize(("asked", "cpu"), [("true", True), ("1", True), ("false", False)])
def test_a_launcher_may_leave_the_gpu_alone(monkeypatch: pytest.MonkeyPatch, asked: str, cpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    assert runs_on_cpu() is cpu


# Each process says what it sees: of the first argument if it is the first one, of the second otherwise.
LOOK = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from accelerate import PartialState
from training.process_exit import leave_process
from training.process_setup import refuse_unshared_folder

PartialState(cpu=True, backend="gloo")
folder, checkpoint = sys.argv[1 + int(os.environ["RANK"])].split(":")
try:
    refuse_unshared_folder(Path(folder), Path(checkpoint) if checkpoint else None)
    print("same")
except ValueError as error:
    print(error)
leave_process(0)
"""


@pytest.mark.slow
def test_processes_that_see_different_folders_or_checkpoints_are_refused_together(tmp_path: Path) -> None:
    """Otherwise they would train apart, and meet each other's collectives."""
    (tmp_path / "look.py").write_text(LOOK)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()

    def told(first: str, second: str) -> list[str]:
        (ended,) = run_processes([str(tmp_path / "look.py"), first, second])
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    assert told(f"{one}:checkpoint-4", f"{one}:checkpoint-4") == ["same", "same"]
    assert told(f"{one}:", f"{one}:") == ["same", "same"]
    unshared = told(f"{one}:", f"{other}:")
    assert sorted(unshared) == sorted(
        f"{folder} must lie on a file system that all processes of the run share." for folder in (one, other)
    )
    stale = told(f"{one}:checkpoint-4", f"{one}:")
    assert len(stale) == 2
    assert all("see different newest checkpoints" in line and "checkpoint-4, none" in line for line in stale)
    assert list(one.iterdir()) == []
