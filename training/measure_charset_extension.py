r"""What does a recogniser lose and gain by new characters, for how many images, with rehearsal and without?

Fonts first, then the whole measurement, an hour on one core; what is finished stays when it is stopped:
    bash training/install_fonts.sh fonts
    python -m training.measure_charset_extension runs/charset_extension --fonts fonts
Fewer images and seeds, and what becomes of real words (folders with labels.tsv, read only, never trained on):
    python -m training.measure_charset_extension runs/charset_extension --fonts fonts \
        --images 5 100 --seeds 1 --real words/iiit5k words/svt

Every point extends the bundled recogniser by `run_finetuning` with `training/configs/extend_charset.yaml`.
The "own" words stand in for a user's labelled crops: rendered, each holding a new character, in the fonts of
every other package; rehearsal draws with the other half. Two test sets in the fonts of the own words are read
before, right after the resizing and after the training: words of the old charset, and words that each hold a
new character. The folder gets `results.json` and `charset_extension.md`, anew after every point.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from transformers import AutoModelForTextRecognition, AutoProcessor
from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from training.benchmark_measurement import checkpoint_hash
from training.charset_arguments import refuse_wrong_characters
from training.collation import BatchNormaliser, WordResizer
from training.edit_alignment import align
from training.evaluation import EvaluationSet, evaluate_sets, prepare_evaluation_set
from training.metrics import wilson_interval
from training.report_charset_extension import extension_table
from training.run_finetuning import main as run_finetuning
from training.run_state import machine_kind, write_json_file
from training.word_fonts import PRINTABLE_ASCII, find_font_files
from training.word_rendering import RENDERING_VERSION, RenderingConfig, WordRenderer
from training.word_sources import RenderedSource, name_source, open_source
from training.word_texts import TextConfig

SETTINGS = Path(__file__).parent / "configs" / "extend_charset.yaml"
# Seeds of rendered words; those of the own words begin at OWN_SEED.
TEST_SEED, OWN_SEED = 90_001, 1000


def main(argv: Sequence[str]) -> int:
    """Options → fonts → test sets → the recogniser before → every point → table; the exit status."""
    options = parse_options(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    own_fonts, rehearsal_fonts = split_fonts(Path(options.fonts))
    rehearsal = write_rehearsal(folder / "rehearsal.yaml", rehearsal_fonts)
    own = own_words(own_fonts, options.characters, options.characters, 0)
    processor = AutoProcessor.from_pretrained(default_checkpoint())
    sets = open_test_sets(options, own_fonts, WordResizer(processor.image_processor))
    path = folder / "results.json"
    content: dict[str, Any] = {
        "protocol": describe_protocol(options, own_fonts, rehearsal_fonts, sets),
        "points": [],
    }
    if path.is_file():
        content = continue_results(path, content)
    else:
        model = AutoModelForTextRecognition.from_pretrained(default_checkpoint(), dtype=torch.float32)
        content["before"] = read_sets(model, processor, sets, options.characters)
        processor.tokenizer = processor.tokenizer.extended(options.characters)
        model.resize_charset(processor.tokenizer)
        content["resized"] = read_sets(model, processor, sets, options.characters)
        content["changed_readings"] = sum(
            a != b
            for name in content["before"]
            for a, b in zip(
                content["before"][name].pop("readings"), content["resized"][name].pop("readings"), strict=True
            )
        )
    # Seed by seed, so that a measurement that is stopped early holds whole rows of few seeds.
    for seed in options.seeds:
        for images in options.images:
            for share in options.rehearsal_shares:
                facts = {"images": images, "rehearsal_share": share, "seed": seed}
                if any(facts.items() <= point.items() for point in content["points"]):
                    continue
                words = folder / f"own_{seed}_{images}.parquet"
                renderers = [
                    own_words(own_fonts, options.characters, character, OWN_SEED + seed, own.faces)
                    for character in options.characters
                ]
                counts = write_own_words(words, renderers, images)
                results = extend_once(folder, words, rehearsal, facts, options, sets)
                content["points"].append(
                    {**facts, "own_words_with": {c: counts[c] for c in options.characters}, **results}
                )
                words.unlink()
                write_json_file(path, content)
                (folder / "charset_extension.md").write_text(extension_table(content), encoding="utf-8")
    print(extension_table(content))
    return 0


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.measure_charset_extension",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", help="folder of the measurement")
    parser.add_argument("--fonts", required=True, help="folder of font folders, by training/install_fonts.sh")
    parser.add_argument("--characters", default="€äöüßé", help="those to add")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 100, 500], help="per new character")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rehearsal-shares", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--steps", type=int, default=300, help="updates of each point")
    parser.add_argument("--test-words", type=int, default=600, help="of each of the two rendered test sets")
    parser.add_argument("--real", nargs="*", default=[], help="labelled words to read before and after")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    refuse_wrong_characters(options.characters)
    if min([*options.images, options.steps, options.test_words, options.threads]) < 1:
        parser.error("`--images`, `--steps`, `--test-words` and `--threads` must be at least 1.")
    return options


def split_fonts(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every other package of fonts for the own words, the others for rehearsal; files, if none is a folder.

    Raises:
        ValueError: for fewer than two.
    """
    places = sorted(str(p) for p in folder.iterdir() if p.is_dir() and find_font_files([p]))
    places = places or find_font_files([folder])
    if len(places) < 2:
        raise ValueError(
            f"`--fonts` must hold at least two folders or files of fonts, {str(folder)!r} has {len(places)}."
        )
    return tuple(places[::2]), tuple(places[1::2])


def write_rehearsal(path: Path, fonts: Sequence[str]) -> Path:
    """Write the published rehearsal's settings with other fonts."""
    published = yaml.safe_load(SETTINGS.with_name("extend_charset_rendering.yaml").read_text("utf-8"))
    path.write_text(yaml.safe_dump({**published, "fonts": list(fonts)}), encoding="utf-8")
    return path


def own_words(
    fonts: Sequence[str], characters: str, held: str, seed: int, faces: Sequence[Any] | None = None
) -> WordRenderer:
    """Words of ASCII and `characters`, each with one of `held`."""
    texts = TextConfig(charset=PRINTABLE_ASCII + characters, emphasised=held, emphasis=1.0, max_length=20)
    return WordRenderer(RenderingConfig(fonts=tuple(fonts), seed=seed, texts=texts), faces)


def write_own_words(path: Path, renderers: Sequence[WordRenderer], count: int) -> Counter[str]:
    """Render `count` words of each renderer into a parquet file; in how many each character stands.

    More words begin with the same.
    """
    images: list[dict[str, Any]] = []
    texts: list[str] = []
    for index in range(count):
        for renderer in renderers:
            # A seed's words of one character are none of another's.
            word = renderer.render(index * len(renderers) + len(texts) % len(renderers))
            buffer = io.BytesIO()
            Image.fromarray(word.image).save(buffer, format="PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
            texts.append(word.text)
    pq.write_table(pa.table({"image": images, "text": texts}), path)
    return Counter(character for text in texts for character in set(text))


def open_test_sets(
    options: argparse.Namespace, fonts: Sequence[str], resizer: WordResizer
) -> list[EvaluationSet]:
    """Rendered words of the old charset, words that hold new characters, and real words where given."""
    texts: dict[str, Any] = {"max_length": 20}
    old = RenderedSource("old", {"fonts": list(fonts), "seed": TEST_SEED, "texts": texts})
    emphasised = {"charset": PRINTABLE_ASCII + options.characters, "emphasised": options.characters}
    new = RenderedSource(
        "new",
        {"fonts": list(fonts), "seed": TEST_SEED + 1, "texts": {**texts, **emphasised, "emphasis": 1.0}},
    )
    rows = range(options.test_words)
    sets = [prepare_evaluation_set(source.name, source, rows, resizer) for source in (old, new)]
    for place in options.real:
        source = open_source(name_source(place))
        assert source.size is not None, "a folder or file has an end"
        sets.append(prepare_evaluation_set(Path(place).name, source, range(source.size), resizer))
    return sets


def extend_once(
    folder: Path,
    words: Path,
    rehearsal: Path,
    facts: dict[str, Any],
    options: argparse.Namespace,
    sets: list[EvaluationSet],
) -> dict[str, Any]:
    """Extend the bundled recogniser once, and read the test sets with what it became."""
    run = folder / "run_{seed}_{images}_{rehearsal_share}".format(**facts)
    settings = {
        "output_dir": str(run),
        "model": str(default_checkpoint()),
        "train_sources": {f"parquet:{words}": 1},
        "charset.add": options.characters,
        "rehearsal_share": facts["rehearsal_share"],
        "rehearsal_rendering": str(rehearsal),
        **{"seed": facts["seed"], "max_steps": options.steps, "threads": options.threads},
        **{"held_out_fraction": 0.0, "eval_words": 1, "eval_steps": None, "save_minutes": None},
        **{"data_workers": 0, "tensorboard": False, "show_words": 0, "resume": True},
    }
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    status = run_finetuning([str(SETTINGS), *overrides])
    if status:
        sys.exit(status)
    model = AutoModelForTextRecognition.from_pretrained(run / "final", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run / "final")
    results = read_sets(model, processor, sets, options.characters)
    for result in results.values():
        result.pop("readings")
    shutil.rmtree(run)
    return {"sets": results}


def read_sets(
    model: Any, processor: Any, sets: Sequence[EvaluationSet], characters: str
) -> dict[str, dict[str, Any]]:
    """Accuracies of every set, with the recall of the new characters, and what was read."""
    normalise = BatchNormaliser(processor.image_processor, channels_last=True)
    results: dict[str, dict[str, Any]] = {}
    for words in sets:
        scores, examples = evaluate_sets(model, processor, [words], normalise, torch.device("cpu"))
        exact = sum(example.label == example.prediction for example in examples)
        total = len(examples) + len(words.unreadable)
        found, asked = Counter[str](), Counter[str]()
        for example in examples:
            for pair in align(example.prediction, example.label):
                asked[pair.label] += 1
                found[pair.label] += pair.label == pair.read
        results[words.name] = {
            "words": total,
            "exact": exact / max(1, total),
            "exact_interval": asdict(wilson_interval(exact, total)),
            "alphanumeric": scores[f"{words.name}_word_accuracy"],
            "alphanumeric_words": scores[f"{words.name}_words"],
            "new_characters": {c: [found[c], asked[c]] for c in characters if asked[c]},
            "readings": [example.prediction for example in examples],
        }
    return results


def describe_protocol(
    options: argparse.Namespace, own: Sequence[str], rehearsal: Sequence[str], sets: Sequence[EvaluationSet]
) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "characters": options.characters,
        "steps": options.steps,
        "settings": yaml.safe_load(SETTINGS.read_text("utf-8")),
        "checkpoint": checkpoint_hash(default_checkpoint()),
        "rendering_version": RENDERING_VERSION,
        "font_folders": {"own": len(own), "rehearsal": len(rehearsal)},
        "sets": {words.name: len(words.texts) + len(words.unreadable) for words in sets},
        "machine": machine_kind(),
    }


def continue_results(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Go on with the points of an earlier session.

    Raises:
        ValueError: when they were measured otherwise.
    """
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    now = json.loads(json.dumps(content["protocol"]))
    differing = [key for key in now if key != "machine" and found["protocol"].get(key) != now[key]]
    if differing:
        raise ValueError(f"{path} was measured with another {', '.join(differing)}; choose another folder.")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
