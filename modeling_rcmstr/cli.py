"""The command `rcmstr`: read words in image files and print text and confidence; export a recogniser.

    rcmstr read word.png photographs/            a table: path, text, confidence
    rcmstr read photographs/ --json              one JSON array, one word per line
    rcmstr read photographs/ --tsv               path, text, score, error, separated by tabs, with a header
    rcmstr demo                                  a web page on this machine that reads dropped pictures
    rcmstr export --onnx my_onnx_folder          the recogniser as ONNX, checked on 1,000 words and more

Exit status: 0 when every picture was read, 1 when one could not be, 2 when nothing could be tried.
"""

import argparse
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# The files of a folder that count as pictures; a file that is named is always tried.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
EXIT_READ, EXIT_UNREADABLE, EXIT_NOT_TRIED, EXIT_BROKEN_PIPE, EXIT_INTERRUPTED = 0, 1, 2, 141, 130
DEFAULT_BATCH_SIZE = 32
# Widest column of paths that the table lines up.
PATH_COLUMNS, TEXT_COLUMNS = 100, 24

Answer = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; `arguments` without the program's name, from the command line when None."""
    options = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A path or a text must not stop the run because a terminal cannot show one of its characters.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return COMMANDS[options.command](options)
    except BrokenPipeError:
        # Whoever read our output has left (`rcmstr … | head`); Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("rcmstr: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="rcmstr", description="Read words in images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "read",
        help="print the word in each image",
        description="Print the word in each image. A picture shows one word or one line of text, cut out.",
        epilog="Exit status: 0 when all was read, 1 when a picture could not be, 2 when none could be tried.",
    )
    command.add_argument(
        "inputs", nargs="+", metavar="IMAGE_OR_FOLDER", help="image file, folder of images, or URL"
    )
    command.add_argument(
        "--checkpoint", help="folder or Hub name of a recogniser (default: the one in the package)"
    )
    style = command.add_mutually_exclusive_group()
    style.add_argument(
        "--json", action="store_true", help="print one JSON array of objects, one object per line"
    )
    style.add_argument("--tsv", action="store_true", help="print tab-separated lines with a header")
    command.add_argument(
        "--characters", action="store_true", help="also print each character with score and span"
    )
    command.add_argument(
        "--allowed-characters", metavar="CHARACTERS", help="read only these, for example 0123456789"
    )
    command.add_argument("--recursive", action="store_true", help="look into the folders of a folder too")
    command.add_argument(
        "--batch-size",
        type=positive_int,
        default=DEFAULT_BATCH_SIZE,
        metavar="N",
        help="words read at once (default: %(default)s)",
    )
    command.add_argument(
        "--threads", type=positive_int, metavar="N", help="processor threads (default: all cores)"
    )
    command.add_argument(
        "--device", help="where to compute, for example cpu or cuda:0 (default: a GPU if there is one)"
    )
    _describe_demo(commands)
    _describe_export(commands)
    return parser


def _describe_demo(commands: Any) -> None:
    """Describe `rcmstr demo`."""
    command = commands.add_parser(
        "demo", help="show a web page that reads pictures", epilog="Ctrl+C ends the page."
    )
    command.add_argument("checkpoint", nargs="?", metavar="MODEL", help="folder or Hub name of a recogniser")
    command.add_argument("--port", type=positive_int, help="default: the first free one from 7860 on")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    command.add_argument("--share", action="store_true", help="also ask Gradio for a public address")
    command.add_argument("--threads", type=positive_int, metavar="N", help="processor threads")
    command.add_argument("--device", help="where to compute, for example cpu or cuda:0")
    command.set_defaults(batch_size=DEFAULT_BATCH_SIZE, characters=True, allowed_characters=None)


def _describe_export(commands: Any) -> None:
    """Describe `rcmstr export`."""
    command = commands.add_parser(
        "export",
        help="write a recogniser as ONNX",
        description="Write a recogniser as ONNX, after it has read every word of a check as the model does.",
        epilog="Exit status: 0 when the folder was written, 2 when it was not; nothing is left behind then.",
    )
    command.add_argument(
        "checkpoint",
        nargs="?",
        metavar="MODEL",
        help="folder or Hub name of a recogniser (default: the one in the package)",
    )
    command.add_argument("--onnx", required=True, metavar="OUT", help="folder to write; must be new or empty")
    command.add_argument(
        "--words",
        nargs="+",
        default=[],
        metavar="IMAGE_OR_FOLDER",
        help="your own words for the check; words drawn for it make up 1,000",
    )
    command.add_argument(
        "--threads", type=positive_int, metavar="N", help="processor threads (default: all cores)"
    )
    # The rest of what `load_pipeline` asks for.
    command.set_defaults(
        device="cpu", batch_size=DEFAULT_BATCH_SIZE, characters=False, allowed_characters=None
    )


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def read(options: argparse.Namespace) -> int:
    """Run `rcmstr read`."""
    paths, problems = find_images(options.inputs, options.recursive)
    for problem in problems:
        print(f"rcmstr: {problem}", file=sys.stderr)
    if not paths:
        return EXIT_NOT_TRIED
    try:
        pipe = load_pipeline(options)
    except Exception as error:
        name = options.checkpoint or "the default checkpoint"
        print(f"rcmstr: cannot read with {name}: {_one_line(str(error))}", file=sys.stderr)
        return EXIT_NOT_TRIED
    write = WRITERS["json" if options.json else "tsv" if options.tsv else "table"]
    failures = 0

    def answers() -> Iterator[tuple[str, Answer]]:
        nonlocal failures
        for path, answer in zip(paths, pipe(iter(paths)), strict=True):
            failures += "error" in answer
            yield path, answer

    write(show_progress(answers(), len(paths)), paths, options.characters)
    if failures:
        print(f"rcmstr: {failures} of {len(paths)} pictures could not be read", file=sys.stderr)
    return EXIT_UNREADABLE if failures or problems else EXIT_READ


def demo(options: argparse.Namespace) -> int:
    """Run `rcmstr demo`."""
    try:
        from .demo_page import build_page, load_gradio, serve_page

        load_gradio()  # before the recogniser, which takes longer
        page = build_page(load_pipeline(options), options.checkpoint or "the one in the package")
        address = serve_page(page, options.host, options.port, options.share)
    except Exception as error:
        print(f"rcmstr: cannot show the page: {_one_line(str(error))}", file=sys.stderr)
        return EXIT_NOT_TRIED
    print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
    page.block_thread()
    return EXIT_READ


def export(options: argparse.Namespace) -> int:
    """Run `rcmstr export`."""
    words, problems = find_images(options.words)
    for problem in problems:
        print(f"rcmstr: {problem}", file=sys.stderr)
    if problems:
        return EXIT_NOT_TRIED
    name = options.checkpoint or "the default checkpoint"
    try:
        pipe = load_pipeline(options)
        from .onnx_export import export_onnx, read_check

        folder = export_onnx(pipe.model, pipe.processor, options.onnx, words)
    except Exception as error:
        print(f"rcmstr: cannot export {name}: {_one_line(str(error))}", file=sys.stderr)
        return EXIT_NOT_TRIED
    check = read_check(folder)
    print(
        f"{folder}: {check['equal']} of {check['words']} words equal, {len(check['near_ties'])} near ties, "
        f"largest difference of a score (logit) {check['largest_difference']:.1e}"
    )
    return EXIT_READ


COMMANDS = {"read": read, "demo": demo, "export": export}


def find_images(inputs: Iterable[str], recursive: bool = False) -> tuple[list[str], list[str]]:
    """List the pictures that the arguments name, folders in natural order (9.png before 10.png).

    Args:
        inputs: files, folders and URLs.
        recursive: whether to look into the folders of a folder.

    Returns:
        Paths to read, and what is wrong with the arguments that give none.
    """
    paths: list[str] = []
    problems: list[str] = []
    for name in inputs:
        folder = Path(name)
        if not os.path.isdir(name):
            # A missing or unreadable file is reported in its place, as a picture that cannot be read.
            paths.append(name)
            continue
        try:
            files = _walk(folder) if recursive else list(folder.iterdir())
        except OSError as error:
            problems.append(f"{name}: {error.strerror or error}")
            continue
        found = [
            path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        found = [path for path in found if path.is_file()]
        paths += map(str, sorted(found, key=lambda path: natural_key(str(path))))
        if not found:
            hint = "" if recursive else ", or give --recursive to look into its folders"
            problems.append(
                f"{name}: no image files in this folder ({' '.join(IMAGE_SUFFIXES)}); name the files{hint}"
            )
    return paths, problems


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Order text with its numbers by value."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part.casefold())
        for part in re.split(r"(\d+)", text)
        if part
    ]


def load_pipeline(options: argparse.Namespace) -> Any:
    """Make the pipeline; libraries are imported here, so that wrong arguments are answered before.

    Raises:
        Exception: whatever a checkpoint that cannot be used makes the library raise.
    """
    import torch
    from transformers import pipeline
    from transformers.utils import logging

    from .pipeline_text_recognition import default_checkpoint

    logging.set_verbosity_error()
    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of loading weights
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = options.checkpoint or str(default_checkpoint())
    if not options.checkpoint and not os.path.isdir(checkpoint):
        raise FileNotFoundError(f"{checkpoint} does not exist; give a recogniser with --checkpoint")
    if not os.path.isdir(checkpoint) and (os.path.isabs(checkpoint) or checkpoint.startswith(".")):
        raise FileNotFoundError(f"there is no such folder; check the path {checkpoint}")
    task: Any = "text-recognition"
    pipe = pipeline(
        task,
        model=checkpoint,
        device=options.device,
        batch_size=options.batch_size,
        return_characters=options.characters,
        allowed_characters=options.allowed_characters,
        on_error="return",
    )
    if options.allowed_characters is not None:
        pipe.tokenizer.character_ids(options.allowed_characters)  # refuses unknown ones before reading
    if shows_progress:
        logging.enable_progress_bar()
    return pipe


def show_progress(answers: Iterable[tuple[str, Answer]], total: int) -> Iterator[tuple[str, Answer]]:
    """Pass answers on, with a bar on a terminal's standard error when it takes more than a second."""
    from transformers.utils.logging import tqdm

    bar = tqdm(total=total, unit="word", delay=1.0, disable=None, file=sys.stderr, leave=False)
    # Lines and bar on one terminal would run into each other.
    shared = sys.stdout.isatty() and sys.stderr.isatty()
    with bar:
        for answer in answers:
            if shared:
                bar.clear()
            yield answer
            bar.update()


def write_table(answers: Iterable[tuple[str, Answer]], paths: Sequence[str], characters: bool) -> None:
    """Print path, text and confidence in columns, as the answers come."""
    columns = min(PATH_COLUMNS, max(map(_columns, paths)))
    for path, answer in answers:
        start = _pad(_one_line(path), columns)
        if "error" in answer:
            print(f"{start}  could not be read: {_one_line(answer['error'])}", flush=True)
            continue
        print(f"{start}  {_pad(answer['text'], TEXT_COLUMNS)} {100 * answer['score']:5.1f} %", flush=True)
        for character in answer.get("characters", ()) if characters else ():
            span = (
                "" if character["start"] is None else f"  {character['start']:.3f} to {character['end']:.3f}"
            )
            print(
                f"{' ' * columns}    {_pad(character['character'], 2)} {100 * character['score']:5.1f} "
                f"%{span}"
            )


def write_tsv(answers: Iterable[tuple[str, Answer]], _paths: Sequence[str], characters: bool) -> None:
    """Print tab-separated lines; a backslash, tab or line break in a value is written as two characters."""
    print("\t".join(["path", "text", "score", "error", *(["characters"] if characters else [])]))
    for path, answer in answers:
        fields = [path, answer["text"] or "", f"{answer['score']:.6f}", answer.get("error", "")]
        if characters:
            fields.append(json.dumps(answer["characters"], ensure_ascii=False))
        print("\t".join(map(_escape, fields)), flush=True)


def write_json(answers: Iterable[tuple[str, Answer]], _paths: Sequence[str], _characters: bool) -> None:
    """Print one JSON array, an object per line; it is closed also when reading stops early."""
    separator = "["
    try:
        for path, answer in answers:
            line = json.dumps({"path": path, **answer}, ensure_ascii=False)
            print(separator, line, sep="\n", end="", flush=True)
            separator = ","
    finally:
        print("[]" if separator == "[" else "\n]", flush=True)


WRITERS = {"table": write_table, "tsv": write_tsv, "json": write_json}


def _walk(folder: Path) -> list[Path]:
    """List the files below a folder; hidden folders and links to folders are left out."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files]
    return found


def _columns(text: str) -> int:
    """Count the columns that text takes on a terminal: two for wide characters, none for accents."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


if __name__ == "__main__":
    sys.exit(main())
