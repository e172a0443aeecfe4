"""Pretraining on several processes: gloo, two nodes, DeepSpeed ZeRO-2 and ZeRO-3, each against one process.

Each start of two processes takes ten seconds and more, most of it imports; the first DeepSpeed run of a
machine compiles a collective once.
"""

import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling_rcmstr import PerSecModel
from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.pretraining_settings import checkpoint_tensors, losses_of, write_run, write_words
from tests.programs import ROOT, run_processes, run_program
from training.pretraining_arguments import PretrainingRunArguments
from training.pretraining_model import build_pretraining_model
from training.run_pretraining import main

CONFIGS = ROOT / "training" / "configs"
# One step more than the checkpoint that a run is taken up from.
STEPS = 3
RCMSTR_SETTINGS: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.0001,
    "max_steps": STEPS,
    "save_steps": 1,
    "keep_checkpoints": STEPS,
}
PERSEC_SETTINGS: dict[str, Any] = {
    **RCMSTR_SETTINGS,
    "optimizer": "adamw",
    "batchnorm": "local",
    "batch_size": 4,
}

# The second process is told to stop within the second update.
SIGNALLED = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from training.pretraining_loop import PretrainingLoop
from training.process_exit import leave_process
from training.run_pretraining import main

update = PretrainingLoop.update

def update_and_signal(self):
    if self.accelerator.process_index == 1 and self.progress.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return update(self)

PretrainingLoop.update = update_and_signal
leave_process(main(sys.argv[1:]))
"""

pytestmark = pytest.mark.slow
needs_deepspeed = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("ninja", path=str(Path(sys.executable).parent)) is None,
    reason="DeepSpeed on CPU compiles its collective with g++ and ninja",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words") / "words")


@pytest.fixture(scope="module")
def one_process(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RCMSTR's CNN on one process with all 8 words."""
    folder = tmp_path_factory.mktemp("one")
    assert main([str(write_run(folder, words, batch_size=8, **RCMSTR_SETTINGS))]) == 0
    return folder / "run"


def start(config: Path, *settings: str, nodes: int = 1) -> None:
    """Run two processes, on one node or on two that meet at a port."""
    ended = run_processes(["-m", "training.run_pretraining", str(config), *settings], nodes)
    assert all(one.returncode == 0 for one in ended), "\n".join(one.stdout + one.stderr for one in ended)


def assert_close(run: Path, expected: Path, tolerance: float = 1e-4) -> None:
    """Losses, weights, momentum encoder and queues of the last checkpoint agree.

    The first loss is the same sum in another order; batch norm on few words multiplies that rounding at every
    update.
    """
    found_losses, wanted_losses = losses_of(run), losses_of(expected)
    assert found_losses[0] == pytest.approx(wanted_losses[0], rel=1e-5)
    assert found_losses == pytest.approx(wanted_losses, rel=tolerance)
    last = f"checkpoints/checkpoint-{STEPS}"
    for file in ("model.safetensors", "objective.safetensors"):
        found, wanted = load_file(str(run / last / file)), load_file(str(expected / last / file))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            if name.endswith("num_batches_tracked"):
                continue
            difference = (found[name].float() - tensor.float()).abs().max()
            assert difference <= tolerance * max(1.0, float(tensor.float().abs().max())), (name, difference)


def take_up(run: Path, copy: Path) -> None:
    """Copy a run without its last update."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / f"checkpoints/checkpoint-{STEPS}")
    shutil.rmtree(copy / "final")


def assert_same_bits(run: Path, expected: Path) -> None:
    last = f"checkpoints/checkpoint-{STEPS}"
    found, wanted = checkpoint_tensors(run / last), checkpoint_tensors(expected / last)
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


def test_two_nodes_with_half_of_the_words_each_equal_one_process(
    tmp_path: Path, words: Path, one_process: Path
) -> None:
    """Synchronised batch norm, gathered keys, masks of the whole update: the same run to 1e-3."""
    start(write_run(tmp_path, words, batch_size=4, **RCMSTR_SETTINGS), nodes=2)
    assert_close(tmp_path / "run", one_process, 1e-3)


def test_a_signal_to_one_process_saves_the_run_of_both(
    tmp_path: Path, words: Path, one_process: Path
) -> None:
    program = tmp_path / "signalled.py"
    program.write_text(SIGNALLED)
    config = write_run(tmp_path, words, batch_size=4, **RCMSTR_SETTINGS | {"save_steps": None})
    (ended,) = run_processes([str(program), str(config)])
    assert len(re.findall(rf"exitcode +: {128 + signal.SIGTERM}", ended.stderr)) == 2, ended.stderr
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-2"]
    assert not (tmp_path / "run/final").exists()
    start(config, "resume=true")
    assert_close(tmp_path / "run", one_process, 1e-3)


@needs_deepspeed
def test_zero_2_equals_one_process_and_goes_on_bit_for_bit(
    tmp_path: Path, words: Path, one_process: Path
) -> None:
    config = write_run(tmp_path, words, batch_size=4, **RCMSTR_SETTINGS)
    zero = f"deepspeed={CONFIGS / 'deepspeed_zero2.json'}"
    start(config, zero)
    run, again = tmp_path / "run", tmp_path / "again"
    assert_close(run, one_process, 1e-3)
    parts = sorted(path.name for path in (run / "checkpoints/checkpoint-1").glob("optimizer-*.safetensors"))
    assert parts == ["optimizer-00000.safetensors", "optimizer-00001.safetensors"]
    take_up(run, again)
    start(config, zero, f"output_dir={again}", "resume=true")
    assert_same_bits(again, run)


@needs_deepspeed
def test_zero_3_trains_persec_saves_it_whole_and_goes_on(tmp_path: Path, words: Path) -> None:
    """Two processes under ZeRO-3 against one process with two accumulated batches: every draw is the same."""
    json_file = write_run(tmp_path, words, "persec").parent / "model.json"
    fresh, _ = build_pretraining_model(PretrainingRunArguments(output_dir="-", model=str(json_file)), None)
    fresh.save_pretrained(tmp_path / "fresh")
    settings = {**PERSEC_SETTINGS, "model": str(tmp_path / "fresh")}  # loading must not divide the weights
    one = write_run(tmp_path / "one", words, "persec", gradient_accumulation_steps=2, **settings)
    assert main([str(one)]) == 0
    config = write_run(tmp_path / "two", words, "persec", **settings)
    zero = f"deepspeed={CONFIGS / 'deepspeed_zero3.json'}"
    start(config, zero)
    run, again = tmp_path / "two/run", tmp_path / "again"
    assert losses_of(run) == pytest.approx(losses_of(tmp_path / "one/run"), rel=1e-4)
    models = [
        PerSecForPreTraining.from_pretrained(place / "final").train() for place in (run, tmp_path / "one/run")
    ]
    pixels = torch.rand(3, 3, 32, 64)
    for name in ("stroke_contrastive_loss", "semantic_diversity_loss", "stroke_feature_penalty"):
        found, wanted = (model(pixels, generator=torch.Generator().manual_seed(0))[name] for model in models)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-4), name
    assert PerSecModel.from_pretrained(run / "final")(pixels).last_hidden_state.shape[0] == 3
    take_up(run, again)
    start(config, zero, f"output_dir={again}", "resume=true")
    assert_same_bits(again, run)


def test_shuffled_keys_of_two_processes_are_those_of_their_words(tmp_path: Path, words: Path) -> None:
    """A ViT has no batch norm, so encoding keys elsewhere changes nothing: the same run to 1e-4."""
    settings = {**RCMSTR_SETTINGS, "batchnorm": "shuffled"}
    assert main([str(write_run(tmp_path / "one", words, "rcmstr", "vit", batch_size=8, **settings))]) == 0
    start(write_run(tmp_path / "two", words, "rcmstr", "vit", batch_size=4, **settings))
    assert_close(tmp_path / "two/run", tmp_path / "one/run", 1e-4)


@pytest.mark.parametrize(
    "launcher", ["accelerate_cpu", pytest.param("accelerate_deepspeed", marks=needs_deepspeed)]
)
def test_the_shipped_launcher_files_start_a_run(tmp_path: Path, words: Path, launcher: str) -> None:
    config = write_run(tmp_path, words, max_steps=1)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(CONFIGS / f"{launcher}.yaml"), "-m", "training.run_pretraining", str(config)]
    done = run_program(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (f"ZeRO stage {2 if 'deepspeed' in launcher else 0}") in done.stdout
    assert (tmp_path / "run/final/model.safetensors").is_file()
