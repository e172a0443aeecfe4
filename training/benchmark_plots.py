"""The plots of the benchmark report, as SVG that lives inside its page.

Lines and letters take the page's own colour (`currentColor`), so a plot fits a light and a dark page; text
stays text. Every plot has a title for those who cannot see it, and the page states its numbers in a table.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from training.calibration import AcceptedShare, CalibrationBin
from training.edit_alignment import Confusion
from training.error_analysis import GroupAccuracy
from training.robustness import RobustnessCurve

# Drawn in this colour, and then turned into the page's.
PAGE_COLOUR = "#123456"
# Told apart by people who see few colours, and readable on white and on black.
COLOURS = ("#2f7ed8", "#d9730d", "#159a6c", "#b455c8", "#c9a000")
MARKERS = ("o", "s", "^", "D", "v")
NO_CHARACTER = "none"
# Rows and columns of the confusion matrix.
CONFUSED_CHARACTERS = 20

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmark",
    "font.size": 10,
    "axes.edgecolor": PAGE_COLOUR,
    "axes.labelcolor": PAGE_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": PAGE_COLOUR,
    "xtick.color": PAGE_COLOUR,
    "ytick.color": PAGE_COLOUR,
    "grid.color": PAGE_COLOUR,
    "grid.alpha": 0.2,
}


def plot_groups(groups: Sequence[GroupAccuracy], name: str, title: str) -> str:
    """A dot and its 95 % interval for each group, top to bottom."""

    def draw(axes: Axes) -> None:
        for place, group in enumerate(groups):
            axes.plot(
                [100 * group.interval.low, 100 * group.interval.high], [place] * 2, color=COLOURS[0], lw=2
            )
            axes.plot([100 * group.accuracy], [place], "o", color=COLOURS[0], ms=6)
        axes.set_yticks(range(len(groups)), [f"{group.name} ({group.count})" for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlim(0, 102)
        axes.set_xlabel("right, %")
        axes.grid(axis="x")

    return _figure(draw, name, title, height=0.27 * len(groups) + 0.8)


def plot_calibration(bins: Sequence[CalibrationBin], name: str, title: str) -> str:
    """Accuracy over mean confidence for each bin, with its interval, against the diagonal."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], ":", color=PAGE_COLOUR, lw=1)
        filled = [one for one in bins if one.words]
        for one in filled:
            axes.plot(
                [100 * one.confidence] * 2,
                [100 * one.interval.low, 100 * one.interval.high],
                color=COLOURS[0],
                lw=1.5,
            )
        axes.plot(
            [100 * one.confidence for one in filled],
            [100 * one.accuracy for one in filled],
            "o-",
            color=COLOURS[0],
            ms=5,
        )
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 101)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right, %")
        axes.grid()

    return _figure(draw, name, title)


def plot_coverage(shares: Sequence[AcceptedShare], wanted: float, name: str, title: str) -> str:
    """Precision over coverage, with the wanted precision as a line."""

    def draw(axes: Axes) -> None:
        axes.plot(
            [100 * share.coverage for share in shares],
            [100 * share.precision for share in shares],
            color=COLOURS[0],
            lw=2,
        )
        axes.axhline(100 * wanted, color=COLOURS[1], lw=1.2, ls="--")
        axes.annotate(
            f"wanted: {100 * wanted:g} %",
            (100, 100 * wanted),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
        )
        lowest = min([share.precision for share in shares] + [wanted])
        axes.set_xlim(0, 100)
        axes.set_ylim(max(0.0, 100 * lowest - 8), 101)
        axes.set_xlabel("accepted words, %")
        axes.set_ylabel("right among the accepted, %")
        axes.grid()

    return _figure(draw, name, title)


def plot_robustness(curves: Sequence[RobustnessCurve], name: str, title: str) -> str:
    """Accuracy over the grade, a line for each distortion; grade 0 is the undistorted sample."""

    def draw(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            axes.plot(
                range(len(curve.points)),
                [100 * point.accuracy for point in curve.points],
                f"{MARKERS[number]}-",
                color=COLOURS[number],
                ms=5,
                label=curve.name,
            )
        axes.set_xticks(range(len(curves[0].points)))
        axes.set_xlabel("grade")
        axes.set_ylabel("right, %")
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=9, loc="lower left")

    return _figure(draw, name, title)


def plot_confusions(confusions: Sequence[Confusion], name: str, title: str) -> str:
    """Shares of the most confused characters: a row for what is there, a column for what was read."""
    rows = _most_frequent(confusions, [confusion.label for confusion in confusions])
    columns = _most_frequent(confusions, [confusion.read for confusion in confusions])
    shares = {(one.label, one.read): one.share for one in confusions}
    values = [[100 * shares.get((row, column), math.nan) for column in columns] for row in rows]

    def draw(axes: Axes) -> None:
        image = axes.imshow(values, cmap=_shades(COLOURS[1]), vmin=0, aspect="auto")
        axes.set_xticks(range(len(columns)), [column or NO_CHARACTER for column in columns])
        axes.set_yticks(range(len(rows)), [row or NO_CHARACTER for row in rows])
        if "" in columns:
            axes.get_xticklabels()[columns.index("")].set_rotation(90)
        axes.set_xlabel("read as")
        axes.set_ylabel("there")
        axes.spines[:].set_visible(True)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
        bar.set_label("% of the character")
        bar.outline.set_edgecolor(PAGE_COLOUR)

    return _figure(draw, name, title, height=4.2, width=5.2)


def _shades(colour: str) -> LinearSegmentedColormap:
    """From nearly transparent to a colour, so that few and many differ on any page."""
    return LinearSegmentedColormap.from_list("shades", [to_rgba(colour, 0.08), to_rgba(colour, 1.0)])


def _most_frequent(confusions: Sequence[Confusion], keys: Sequence[str]) -> list[str]:
    """The characters with the most mistakes, in order of the alphabet, no character last."""
    counts: dict[str, int] = {}
    for key, confusion in zip(keys, confusions, strict=True):
        counts[key] = counts.get(key, 0) + confusion.count
    chosen = sorted(counts, key=lambda key: (-counts[key], key))[:CONFUSED_CHARACTERS]
    return sorted(chosen, key=lambda key: (not key, key))


def _figure(
    draw: Callable[[Axes], None], name: str, title: str, height: float = 3.2, width: float = 4.4
) -> str:
    """Draw on new axes and give the SVG element; `name` makes its identifiers unique on the page."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return embed(written.getvalue(), name, title)


def embed(svg: str, name: str, title: str) -> str:
    """Make an SVG file a part of a page: sized by the page, in its colour, with identifiers of its own.

    Args:
        svg: a file that matplotlib wrote.
        name: prefix of its identifiers.
        title: what the picture shows.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(PAGE_COLOUR, "currentColor")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    start = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{label}" {box[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: start, svg, count=1)
