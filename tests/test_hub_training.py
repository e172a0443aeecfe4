"""The stock `Trainer` with `push_to_hub=True`: a run puts its checkpoints on the Hub by itself."""

import json
import sys
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.programs import run_program

TRAIN = """
import json, sys
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
import modeling_rcmstr as package
from tests.recognisers import collate

class Words(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        pixels = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "labels": [1 + index, 2 + index]}

config = package.RCMSTRConfig(
    vocab_size=37,
    embedding_sizes=(8, 16),
    hidden_sizes=(16, 24, 32, 32),
    depths=(1, 1, 1, 1),
    head_hidden_size=32,
)
torch.manual_seed(0)
model = package.RCMSTRForTextRecognition(config)
processor = package.TextRecognitionProcessor(
    package.TextRecognitionImageProcessor(), package.CharacterTokenizer()
)
arguments = TrainingArguments(
    output_dir=sys.argv[1], push_to_hub=True, hub_model_id="words/tuned", hub_private_repo=True,
    hub_strategy="every_save", save_steps=2, max_steps=4, per_device_train_batch_size=4, use_cpu=True,
    disable_tqdm=True, report_to=[],
)
trainer = Trainer(
    model=model, args=arguments, train_dataset=Words(), data_collator=collate, processing_class=processor
)
trainer.train()
trainer.push_to_hub("The end of the run")
loaded = package.RCMSTRForTextRecognition.from_pretrained("words/tuned")
same = all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
tokenizer = package.CharacterTokenizer.from_pretrained("words/tuned")
print(json.dumps({"same": same, "tokens": len(tokenizer)}))
"""


@pytest.mark.slow
def test_a_trainer_pushes_its_checkpoints(tmp_path: Path) -> None:
    with HubServer() as hub:
        token = hub.add_user("ada", "words")
        run = run_program(
            [sys.executable, "-c", TRAIN, str(tmp_path / "run")],
            env=hub.environment(tmp_path / "home", token),
        )
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout.splitlines()[-1]) == {"same": True, "tokens": 37}
        assert token not in run.stdout + run.stderr
        assert hub.unknown == []
        repository = hub.repository("words/tuned")
        assert repository.private
        commits = repository.log()
        assert commits[0].title == "The end of the run"
        weights = {commit.files["model.safetensors"].key for commit in commits if len(commit.files) > 2}
        assert len(weights) == 2, "the checkpoint after two updates, and the one after four"
        for commit in commits:
            for path, file in commit.files.items():
                assert token.encode() not in repository.contents[file.key], path
