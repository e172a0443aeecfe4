import xml.etree.ElementTree as ElementTree

import pytest

from training.benchmark_plots import (
    PAGE_COLOUR,
    embed,
    plot_calibration,
    plot_confusions,
    plot_coverage,
    plot_groups,
    plot_robustness,
)
from training.calibration import accepted_shares, calibration_bins
from training.edit_alignment import count_confusions
from training.error_analysis import group_accuracy
from training.robustness import RobustnessCurve

CONFIDENCES, CORRECT = [0.1, 0.4, 0.9, 0.9], [False, True, True, True]
GROUPS = [group_accuracy("3 <&>", 1, 3), group_accuracy("4", 4, 4)]
CURVES = [RobustnessCurve(name, "px", (1, 2), tuple(GROUPS * 2)) for name in ("blur", "noise")]


def every_plot(name: str) -> dict[str, str]:
    return {
        "groups": plot_groups(GROUPS, name, "By <length>"),
        "calibration": plot_calibration(calibration_bins(CONFIDENCES, CORRECT), name, "Calibration"),
        "coverage": plot_coverage(accepted_shares(CONFIDENCES, CORRECT), 0.95, name, "Coverage"),
        "robustness": plot_robustness(CURVES, name, "Robustness"),
        "confusions": plot_confusions(count_confusions(["a0<", "b"], ["ao&", "bc"]), name, "Confusions"),
    }


@pytest.mark.parametrize("kind", list(every_plot("x")))
def test_a_plot_is_one_labelled_element_in_the_colour_of_the_page(kind: str) -> None:
    svg = every_plot("plot")[kind]
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" or root.tag.endswith("}svg")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "currentColor" in svg
    assert PAGE_COLOUR not in svg
    assert "<text" in svg


def test_identifiers_of_two_plots_never_meet_and_every_reference_has_its_target() -> None:
    seen: set[str] = set()
    for name in ("one", "two"):
        for kind, svg in every_plot(name).items():
            root = ElementTree.fromstring(plot_named(svg, f"{name}{kind}"))
            found = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
            assert not found & seen
            seen |= found
            wanted = {
                value.split("#", 1)[1].rstrip(")")
                for element in root.iter()
                for key, value in element.attrib.items()
                if "#" in value and (key.endswith("href") or value.startswith("url(#"))
            }
            assert wanted <= found


def plot_named(svg: str, name: str) -> str:
    """The same element, embedded once more under another name."""
    return embed(svg, name, "again")


def test_a_plot_is_the_same_every_time() -> None:
    assert every_plot("plot") == every_plot("plot")


def test_titles_are_text_not_markup() -> None:
    svg = plot_groups(GROUPS, "x", 'a "quoted" <title> & more')
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'a "quoted" <title> & more'
    assert "3 &lt;&amp;&gt; (3)" in svg
