"""The house keeps its plan: who may import whom, what a published folder needs, and one idea per file."""

import ast
import configparser
import importlib
import json
import re
import sys
from collections import defaultdict
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modeling_rcmstr"
TRAINING = ROOT / "training"

# Layer by layer, from the leaves up. A new file is placed here before it is written.
LEAVES = {
    "bidirectional_lstm",
    "charset_mapping",
    "contrastive",
    "feature_masking",
    "masking",
    "perceiver_losses",
    "quantizer",
    "rearrangement",
    "rectification",
    "saliency",
    "sparse_convolution",
    "text_decoding",
    "window_attention",
}
CONFIGURATIONS = {"configuration_text_recognition", "configuration_rcmstr", "configuration_persec"}
ASSEMBLIES = {
    "context_perceiver",
    "encoder_cnn",
    "encoder_resnet45",
    "encoder_vit",
    "recognition_heads",
    "reconstruction",
    "relational_losses",
}
SHARED_MODELS = {"pretrained_text_recognition", "modeling_text_recognition"}
MODELS = {"modeling_rcmstr", "modeling_persec"}
PRETRAINING = {"pretraining_rcmstr", "pretraining_persec"}
AROUND = {
    "image_reading",
    "tokenization_text_recognition",
    "image_processing_text_recognition",
    "processing_text_recognition",
    "pipeline_text_recognition",
}
# The demo page, copied whole into a Space; no model knows it.
PAGE = {"word_readings", "reading_card", "demo_page"}
# Beside the models and with libraries of an extra; no published folder needs it.
ONNX = {"onnx_graphs", "onnx_check", "onnx_session", "onnx_reading", "onnx_export"}
SURFACE = {"__init__", "cli"}

EVERYTHING = set().union(
    LEAVES, CONFIGURATIONS, ASSEMBLIES, SHARED_MODELS, MODELS, PRETRAINING, AROUND, PAGE, ONNX, SURFACE
)

# Each layer with those that it may import from. A layer that lacks itself holds files that ignore each other.
MAY_IMPORT = [
    (LEAVES, set()),
    (CONFIGURATIONS, CONFIGURATIONS),
    (ASSEMBLIES, LEAVES | CONFIGURATIONS | ASSEMBLIES),
    (SHARED_MODELS, LEAVES | CONFIGURATIONS | ASSEMBLIES | SHARED_MODELS),
    (MODELS, LEAVES | CONFIGURATIONS | ASSEMBLIES | SHARED_MODELS),
    (PRETRAINING, LEAVES | CONFIGURATIONS | ASSEMBLIES | SHARED_MODELS | MODELS),
    (AROUND, LEAVES | AROUND),
    (PAGE, LEAVES | PAGE | {"image_reading"}),
    (ONNX, LEAVES | CONFIGURATIONS | ASSEMBLIES | SHARED_MODELS | AROUND | ONNX),
    (SURFACE, EVERYTHING),
]
HUB_LIBRARIES = {"torch", "numpy", "PIL", "transformers", "huggingface_hub"}
# Imported inside a function's `try`, which says what to install.
OPTIONAL_LIBRARIES = {"demo_page": {"gradio"}, "onnx_session": {"onnxruntime"}}
# Imported under a name other than the distribution's.
IMPORT_NAMES = {
    "fonttools": "fontTools",
    "markdown-it-py": "markdown_it",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
OUR_FOLDERS = {"modeling_rcmstr", "training", "examples", "tests"}
# Used through another library or as a program, so nothing of ours imports them.
NOT_IMPORTED = {"accelerate", "deepspeed", "onnx", "onnxruntime", "onnxscript", "safetensors", "tensorboard"}

PACKAGE_FILES = sorted(PACKAGE.glob("*.py"))
HUB_FILES = [path for path in PACKAGE_FILES if path.stem not in SURFACE]
TRAINING_FILES = sorted(TRAINING.glob("*.py"))
ALL_FILES = sorted(
    path
    for folder in ("modeling_rcmstr", "training", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative_imports(path: Path) -> list[ast.ImportFrom]:
    """Every `from .x import y` of a file, inside functions too."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.level]


def imported_siblings(path: Path) -> set[str]:
    """Names of the siblings that a file imports, `from . import x` counted as x."""
    return {
        name
        for node in relative_imports(path)
        for name in ([node.module] if node.module else [alias.name for alias in node.names])
    }


def imported_libraries(path: Path) -> set[str]:
    """First names of the absolute imports of a file that are not the standard library's."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def libraries_of_notebook(path: Path) -> set[str]:
    """First names of what the cells of a notebook import, all at their top, but for the standard library."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    found = [re.match(r"(?:from|import) (\w+)", line) for line in lines]
    return {one[1] for one in found if one} - set(sys.stdlib_module_names)


def name(path: Path) -> str:
    """A file's path from the repository's root, for test identifiers."""
    return path.relative_to(ROOT).as_posix()


def test_every_module_has_its_layer() -> None:
    assert {path.stem for path in PACKAGE_FILES} <= EVERYTHING


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    allowed = next(allowed for layer, allowed in MAY_IMPORT if path.stem in layer)
    assert imported_siblings(path) <= allowed


def test_siblings_import_each_other_without_a_circle() -> None:
    graph = {path.stem: imported_siblings(path) for path in HUB_FILES}
    reached: dict[str, set[str]] = {module: set(targets) for module, targets in graph.items()}
    for _ in graph:
        for targets in reached.values():
            for target in list(targets):
                targets |= graph.get(target, set())
    assert not [module for module, targets in reached.items() if module in targets]


def test_package_is_flat() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= {"checkpoints", "example_words"}
    assert not [path for folder in folders for path in (PACKAGE / folder).rglob("*.py")]


@pytest.mark.parametrize("path", HUB_FILES, ids=name)
def test_published_files_import_only_named_siblings(path: Path) -> None:
    for node in relative_imports(path):
        assert node.level == 1, "a published folder is flat"
        assert node.module, "`from . import x` is not copied to the Hub"
        assert "." not in node.module, "a published folder is flat"
        assert (PACKAGE / f"{node.module}.py").exists()


@pytest.mark.parametrize("path", HUB_FILES, ids=name)
def test_the_librarys_import_scanner_sees_what_python_sees(path: Path) -> None:
    """Transformers looks for relative imports with this expression, in docstrings too."""
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(found) == imported_siblings(path)


@pytest.mark.parametrize("path", HUB_FILES, ids=name)
def test_published_files_need_no_further_library(path: Path) -> None:
    assert imported_libraries(path) <= HUB_LIBRARIES | OPTIONAL_LIBRARIES.get(path.stem, set())


@pytest.mark.parametrize("stem", OPTIONAL_LIBRARIES)
def test_a_library_that_may_be_missing_is_imported_where_that_is_caught(stem: str) -> None:
    found = tree(PACKAGE / f"{stem}.py")
    caught = {id(inner) for node in ast.walk(found) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    for node in ast.walk(found):
        if isinstance(node, ast.Import) and {one.name for one in node.names} & OPTIONAL_LIBRARIES[stem]:
            assert id(node) in caught


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name)
def test_package_imports_neither_itself_by_name_nor_training(path: Path) -> None:
    assert not imported_libraries(path) & OUR_FOLDERS


def test_training_never_wears_the_name_of_a_library() -> None:
    """A script run by its path would find it in place of the library."""
    libraries = set(packages_distributions()) | set(sys.stdlib_module_names)
    assert {path.stem for path in TRAINING_FILES} & libraries == set()


def test_dependencies_are_declared_and_used() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    def declared(requirements: str) -> set[str]:
        names = {Requirement(line).name for line in requirements.split()} - NOT_IMPORTED - {"modeling-rcmstr"}
        return {IMPORT_NAMES.get(found, found) for found in names}

    core = declared(setup["options"]["install_requires"])
    extras = setup["options.extras_require"]
    train, bench, notebooks = (declared(extras[name]) for name in ("train", "bench", "notebooks"))
    in_package = set().union(*map(imported_libraries, PACKAGE_FILES))
    in_training = set().union(*map(imported_libraries, TRAINING.rglob("*.py"))) - OUR_FOLDERS
    optional = set().union(*OPTIONAL_LIBRARIES.values())
    assert optional - NOT_IMPORTED <= declared(extras["demo"])
    assert in_package - NOT_IMPORTED <= core | optional
    assert in_training - NOT_IMPORTED <= core | train | bench | notebooks
    in_tests = set().union(*map(imported_libraries, (ROOT / "tests").glob("*.py"))) - OUR_FOLDERS
    in_tests -= {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert in_tests - NOT_IMPORTED <= core | train | notebooks | declared(extras["test"]), (
        "what a test imports"
    )
    in_notebooks = (
        set().union(*map(libraries_of_notebook, (ROOT / "notebooks").glob("*.ipynb"))) - OUR_FOLDERS
    )
    assert in_notebooks <= core | train | notebooks | {"IPython"}, "IPython comes with the kernel"
    assert train | bench | notebooks <= in_training | in_notebooks, "declared, and imported nowhere"


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_one_idea_per_file(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "split the file by its ideas"


@pytest.mark.parametrize("path", [*PACKAGE_FILES, *TRAINING_FILES], ids=name)
def test_every_module_says_its_idea(path: Path) -> None:
    assert ast.get_docstring(tree(path))
    assert not re.search(r"(^|_)(utils?|common|helpers?|misc|base)$", path.stem), (
        "name the idea, not the drawer"
    )


def test_every_module_has_its_tests() -> None:
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    modules = {path.stem for path in [*PACKAGE_FILES, *TRAINING_FILES]} - {"__init__"}
    assert sorted(module for module in modules if f"test_{module}" not in tests) == []


def test_no_two_public_names_are_alike() -> None:
    """One name is one thing, in the package and in the scripts beside it, but for their command lines."""
    homes = defaultdict(list)
    for path in [*PACKAGE_FILES, *TRAINING_FILES]:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                homes[node.name].append(name(path))
    of_scripts = {"main", "parse_options"}
    assert {n: where for n, where in homes.items() if len(where) > 1 and n not in of_scripts} == {}


def test_public_surface_is_complete_and_sorted() -> None:
    package = importlib.import_module("modeling_rcmstr")
    assert list(package.__all__) == sorted(package.__all__)
    assert [found for found in package.__all__ if not hasattr(package, found)] == []


def test_install_carries_types_licence_and_checkpoints() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["modeling_rcmstr"].split()
    data = [*(PACKAGE / "checkpoints").rglob("*"), *PACKAGE.glob("example_words/*"), PACKAGE / "py.typed"]
    for path in filter(Path.is_file, data):
        assert any(path.relative_to(PACKAGE).match(pattern) for pattern in patterns), name(path)
    for file in setup["metadata"]["license_files"].split():
        assert (ROOT / file).is_file()


def test_constraints_hold_one_fitting_version_for_every_requirement() -> None:
    """On every Python that setup.cfg admits; the markers of constraints.txt tell them apart."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    sections = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    wanted = [Requirement(line) for section in sections for line in section.split()]
    for version in ("3.10", "3.11", "3.12", "3.13"):
        python = {"python_version": version, "python_full_version": f"{version}.5", "sys_platform": "linux"}
        for requirement in wanted:
            if requirement.name == setup["metadata"]["name"]:
                continue
            fitting = [
                pin
                for pin in pins
                if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
                and (pin.marker is None or pin.marker.evaluate(python))
            ]
            assert len(fitting) == 1, (version, requirement.name)
            assert requirement.specifier.contains(next(iter(fitting[0].specifier)).version), fitting[0]


def test_citation_states_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = importlib.import_module("modeling_rcmstr").__version__
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [version]
