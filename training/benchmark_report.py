"""The page that `run_benchmark --report` writes: one HTML file with numbers, plots and the worst mistakes.

Everything is in the file: styles, plots as SVG, pictures of words as data; it loads nothing and runs no
script. The template is `benchmark_report.html` beside this module; what is computed lies in `error_analysis`,
`edit_alignment`, `calibration` and `robustness`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from training import benchmark_plots as plots
from training.augmentation import WORKING_HEIGHT
from training.benchmark_calibration import SetCalibration, calibrate_sets
from training.benchmark_measurement import ReaderReport, mean_accuracy, sample_accuracy
from training.benchmark_sets import BenchmarkSet
from training.benchmarks import normalise_alphanumeric
from training.calibration import CalibrationBin, accepted_shares, calibration_bins
from training.edit_alignment import Confusion, count_confusions
from training.error_analysis import (
    GroupAccuracy,
    WordRecord,
    accuracy_by_character_kind,
    accuracy_by_height,
    accuracy_by_length,
    accuracy_by_word_kind,
    make_records,
    worst_mistakes,
)
from training.robustness import RobustnessCurve, choose_sample, measure_robustness
from training.run_state import write_json_file

TEMPLATE = Path(__file__).with_name("benchmark_report.html")
SHOWN_MISTAKES = 24
SHOWN_CONFUSIONS = 15
# Pictures of words are shrunk to this before they go into the page.
LARGEST_PICTURE = (320, 96)


@dataclass(frozen=True)
class ErrorAnalysis:
    """What is computed from the words that a checkpoint read; see the modules of each part."""

    by_length: list[GroupAccuracy]
    by_word_kind: list[GroupAccuracy]
    by_height: list[GroupAccuracy]
    by_character_kind: list[GroupAccuracy]
    by_character_kind_without_case: list[GroupAccuracy]
    confusions: list[Confusion]
    precision: float
    calibration: list[SetCalibration]
    bins: list[CalibrationBin]
    robustness: list[RobustnessCurve]
    robustness_words: int


def write_benchmark_report(
    folder: Path,
    measurement: dict[str, Any],
    sets: Sequence[BenchmarkSet],
    readers: Sequence[ReaderReport],
    reader: Any,
    precision: float,
    curves: Sequence[RobustnessCurve] | None = None,
) -> Path:
    """Analyse what the first reader read and write `index.html` and `results.json` into a folder.

    Args:
        folder: made when it does not exist.
        measurement: what `describe_measurement` gives; it and the analysis go into `results.json`.
        sets: that were read.
        readers: the checkpoint's report, then the peers'.
        reader: the public pipeline, for the distorted images.
        precision: share of right words that is wanted among accepted ones, above 0 and up to 1.
        curves: of robustness, when they are measured already.

    Returns:
        The page.

    Raises:
        ValueError: when no word can be compared.
    """
    records = make_records(sets, readers[0].readings)
    if not records:
        raise ValueError("no label has a letter or digit, so there is nothing to report; check the labels.")
    analysis = analyse(records, reader, precision, curves)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_file(folder / "results.json", {**measurement, "analysis": asdict(analysis)})
    page = folder / "index.html"
    page.write_text(render_page(measurement, readers, records, analysis), encoding="utf-8")
    return page


def analyse(
    records: Sequence[WordRecord],
    reader: Any,
    precision: float,
    curves: Sequence[RobustnessCurve] | None = None,
) -> ErrorAnalysis:
    """Compute every part of the report but the tables of accuracy; `curves` as measured already."""
    sample = choose_sample(records)
    return ErrorAnalysis(
        by_length=accuracy_by_length(records),
        by_word_kind=accuracy_by_word_kind(records),
        by_height=accuracy_by_height(records),
        by_character_kind=accuracy_by_character_kind(records, ignore_case=False),
        by_character_kind_without_case=accuracy_by_character_kind(records, ignore_case=True),
        confusions=count_confusions(
            [normalise_alphanumeric(record.text) for record in records],
            [normalise_alphanumeric(record.label) for record in records],
        ),
        precision=precision,
        calibration=calibrate_sets(records, precision),
        bins=calibration_bins([record.confidence for record in records], [r.correct for r in records]),
        robustness=measure_robustness(reader, sample) if curves is None else list(curves),
        robustness_words=len(sample),
    )


def render_page(
    measurement: dict[str, Any],
    readers: Sequence[ReaderReport],
    records: Sequence[WordRecord],
    analysis: ErrorAnalysis,
) -> str:
    """Fill the template."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    mistakes = worst_mistakes(records, SHOWN_MISTAKES)
    benchmark = measurement["benchmark"]
    ours = readers[0].readings.values()
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        measurement=measurement,
        readers=readers,
        means=[(mean_accuracy(one.results), sample_accuracy(one.results)) for one in readers],
        averaged=len(readers[0].results) > 1 and (benchmark is None or benchmark["averaged"]),
        analysis=analysis,
        working_height=WORKING_HEIGHT,
        plots=draw_plots(records, analysis),
        confusions=analysis.confusions[:SHOWN_CONFUSIONS],
        mistakes=[(record, picture_of(record.image)) for record in mistakes],
        speed=sum(len(one.texts) for one in ours) / sum(one.seconds for one in ours),
        wrong=sum(not record.correct for record in records),
        words=len(records),
    )


def draw_plots(records: Sequence[WordRecord], analysis: ErrorAnalysis) -> dict[str, str]:
    """Every plot of the page by its name, as SVG elements; those without data are left out."""
    confidences, correct = [record.confidence for record in records], [record.correct for record in records]
    drawn = {
        name: plots.plot_groups(groups, name, title)
        for name, groups, title in (
            ("length", analysis.by_length, "Word accuracy by length of the word"),
            ("kind", analysis.by_word_kind, "Word accuracy by kind of word"),
            ("height", analysis.by_height, "Word accuracy by height of the image"),
            ("characters", analysis.by_character_kind, "Characters read rightly, by kind"),
        )
        if groups
    }
    drawn["calibration"] = plots.plot_calibration(
        analysis.bins, "calibration", "Share of right words over confidence"
    )
    drawn["coverage"] = plots.plot_coverage(
        accepted_shares(confidences, correct),
        analysis.precision,
        "coverage",
        "Share of right words among the accepted, over the share that is accepted",
    )
    if analysis.confusions:
        drawn["confusions"] = plots.plot_confusions(
            analysis.confusions, "confusions", "Which characters are read for which"
        )
    if analysis.robustness:
        drawn["robustness"] = plots.plot_robustness(
            analysis.robustness, "robustness", "Word accuracy as images get worse, by distortion"
        )
    return drawn


def picture_of(image: Any) -> str:
    """A word as a small JPEG in a data URI."""
    picture = read_image(image).copy()
    picture.thumbnail(LARGEST_PICTURE, Image.Resampling.BICUBIC)
    written = io.BytesIO()
    picture.save(written, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign; a dash when there is none."""
    return "\u2013" if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"
