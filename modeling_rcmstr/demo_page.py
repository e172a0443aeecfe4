"""The demo page, for `rcmstr demo` and for a Space: drop or paste pictures, see what was read and from where.

Gradio makes the page and is needed by nothing else: `pip install 'modeling-rcmstr[demo]'`. The page asks no
other server for anything. What one reading looks like is in `reading_card`, the records in `word_readings`.
"""

import os
import socket
from pathlib import Path
from typing import Any

from .reading_card import STYLE, download_links, example_buttons, reading_card, readings_table
from .saliency import Saliency, text_saliency
from .word_readings import WordReading, as_records, read_files

EXAMPLES = Path(__file__).resolve().parent / "example_words"
# Uploads are deleted when they are this old, looked for this often; seconds.
UPLOADS_KEPT_S = 3600
MAX_FILE_SIZE = "100mb"
NOTES = """
Confidence is the model's own probability of the whole text, the product over its characters; it is not
calibrated. A frame spans what its character was read from; dashed orange: less than 90 % sure.
One word, or one short line, per picture: this reads, it does not find words in a page.
"""
NOTHING_YET = '<div class="rc"><p class="empty">What is read appears here.</p></div>'
PAGE_STYLE = """
.gradio-container { max-width: 1180px !important; width: 100% !important; margin: 0 auto !important; }
#examples, #card, #table, #downloads, .html-container { --block-padding: 0; }
#clear { align-self: flex-start; width: auto; }
#headline h1 { margin: .2rem 0 0; font-size: 1.7rem; }
#headline p { margin: .2rem 0 0; color: var(--body-text-color); opacity: .8; }
"""
# A click on a numbered button of a piece of the page becomes an event with its number.
CHOOSE_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-number]");
  if (button) trigger("click", {number: Number(button.dataset.number)});
});
"""
# Pictures from the clipboard go the way of chosen files.
PASTE_SCRIPT = """
<script>
window.givePictures = (files) => {
  const input = document.querySelector("#pictures input[type=file]");
  if (!files.length || !input) return false;
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
  return true;
};
window.pastePictures = async () => {
  try {
    const files = [];
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((name) => name.startsWith("image/"));
      if (type) files.push(new File([await item.getType(type)], "pasted." + type.slice(6), {type}));
    }
    if (!window.givePictures(files)) alert("There is no picture in the clipboard.");
  } catch (error) {
    alert("The browser does not let this page read the clipboard. Press Ctrl+V (Cmd+V) instead.");
  }
};
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData ? event.clipboardData.files : [])];
  if (window.givePictures(files)) event.preventDefault();
});
document.documentElement.lang = "en";
</script>
"""


class DemoPageError(RuntimeError):
    """The page cannot be shown; the message says why and what to do."""


def load_gradio() -> Any:
    """Import Gradio with its statistics switched off.

    Raises:
        ImportError: without Gradio, with the command that installs it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the demo page needs Gradio; install with pip install 'modeling-rcmstr[demo]'"
        ) from error
    return gradio


def example_words() -> list[Path]:
    """List the example pictures, words that this repository has drawn."""
    return sorted(EXAMPLES.glob("*.jpg"))


def word_saliency(reader: Any, reading: WordReading) -> Saliency:
    """Compute the saliency map of one reading, as a batch of one.

    Args:
        reader: the text-recognition pipeline that read it.
        reading: of a picture that could be read.

    Raises:
        ValueError: for a picture that could not be read.
    """
    if reading.word is None:
        raise ValueError(f"there is no map for {reading.name}: it could not be read.")
    batch = reader.image_processor.batch_words([reading.word], return_tensors="pt")
    pixel_values = batch["pixel_values"].to(reader.model.device, reader.model.dtype)
    return text_saliency(reader.model, pixel_values)


def show_reading(reader: Any, reading: WordReading) -> str:
    """Set one reading with its saliency map as HTML."""
    if reading.word is None:
        return reading_card(reading)
    saliency = word_saliency(reader, reading)
    return reading_card(reading, saliency.maps[0].cpu().numpy(), saliency.kind)


def describe_model(reader: Any, name: str) -> str:
    """Say in one line which recogniser reads."""
    config = reader.model.config
    if os.path.isabs(name) or name.startswith((".", "~")):
        name = Path(name).name  # a server's folders are nobody's business
    head = "attention" if reader.model.can_generate() else "CTC"
    characters = len(reader.tokenizer) - len(set(reader.tokenizer.all_special_ids))
    encoder = {"cnn": "CNN", "vit": "ViT"}.get(config.encoder_type, config.encoder_type)
    return f"Recogniser: {name} ({config.model_type}, {encoder} and {head}, {characters} characters)."


def build_page(reader: Any, name: str) -> Any:
    """Make the page.

    Its API has one endpoint, `/read`: files in, the records of `as_records` out.

    Args:
        reader: a text-recognition pipeline.
        name: what to call its model.

    Returns:
        `gradio.Blocks`; `serve_page` shows it.

    Raises:
        ImportError: without Gradio.
    """
    gradio = load_gradio()
    callbacks = _Callbacks(reader, gradio)
    words = example_words()
    with gradio.Blocks(
        title="Read words", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S)
    ) as page:
        files = gradio.File(file_count="multiple", visible=False, label="files")
        records = gradio.JSON(visible=False, label="readings")
        gradio.Button(visible=False).click(callbacks.records, files, records, api_name="read")

        readings = gradio.State([])
        gradio.Markdown(f"# Read words\n\n{describe_model(reader, name)}", elem_id="headline")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                pictures = gradio.File(
                    file_count="multiple",
                    label="Pictures of words: drop, choose or paste",
                    elem_id="pictures",
                    height=170,
                )
                paste = gradio.Button("Paste from the clipboard", elem_id="paste", size="md")
                examples = gradio.HTML(
                    example_buttons(words), js_on_load=CHOOSE_SCRIPT, elem_id="examples", label="Examples"
                )
            with gradio.Column(scale=3, min_width=300):
                card = gradio.HTML(NOTHING_YET, elem_id="card", label="Reading")
        with gradio.Column(visible=False, elem_id="all") as batch:
            table = gradio.HTML(js_on_load=CHOOSE_SCRIPT, elem_id="table", label="All pictures")
            links = gradio.HTML(elem_id="downloads", label="Downloads")
            clear = gradio.Button("Start over", elem_id="clear", size="sm")
        gradio.Markdown(NOTES, elem_id="notes")

        # The annotation is how Gradio knows that a function wants the event.
        def read_example(readings: list[WordReading], event: gradio.EventData) -> list[Any]:  # type: ignore
            return callbacks.read([str(words[event.number - 1])], readings)

        def show(readings: list[WordReading], event: gradio.EventData) -> list[Any]:  # type: ignore
            return callbacks.show(readings, event.number)

        shown = [readings, pictures, card, batch, table, links]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress_on": card}
        pictures.upload(callbacks.read, [pictures, readings], shown, **private)
        examples.click(read_example, readings, shown, **private)
        table.click(show, readings, [card, table], **private)
        clear.click(callbacks.clear, None, shown, **private)
        paste.click(None, js="() => { window.pastePictures(); }", api_visibility="private")
    return page


def serve_page(page: Any, host: str | None = None, port: int | None = None, share: bool = False) -> str:
    """Serve the page until `page.close()`; `page.block_thread()` waits for Ctrl+C.

    Args:
        page: what `build_page` gave.
        host: address to listen on; None for this machine alone (or what GRADIO_SERVER_NAME says).
        port: None for the first free one from 7860 on.
        share: also ask Gradio's servers for a public address, which ends after some days.

    Returns:
        The public address, or that on this machine.

    Raises:
        DemoPageError: when the port is taken or may not be used.
    """
    gradio = load_gradio()
    theme = gradio.themes.Default(
        primary_hue="emerald",
        secondary_hue="emerald",
        neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    _check_address(host, port)
    try:
        _, address, public = page.queue(max_size=64).launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=MAX_FILE_SIZE,
            state_session_capacity=100,
            run_history=False,
            ssr_mode=False,
            footer_links=["api", "gradio", "settings"],
            theme=theme,
            css=PAGE_STYLE + STYLE,
            head=PASTE_SCRIPT,
        )
    except OSError as error:
        raise DemoPageError("there is no free port from 7860 on; give one.") from error
    return public or address


def _check_address(host: str | None, port: int | None) -> None:
    """Refuse an address that the page cannot have, on which Gradio would try a hundred times."""
    try:
        family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host or "127.0.0.1", port or 0))
    except (OSError, OverflowError) as error:
        raise DemoPageError(
            f"the page cannot be at {host or '127.0.0.1'}, port {port or 'any'}: {error}; give another host "
            "or port, or leave them out."
        ) from error


class _Callbacks:
    """What the page does when something happens on it."""

    def __init__(self, reader: Any, gradio: Any) -> None:
        self.reader, self.gradio = reader, gradio

    def read(self, files: list[str] | None, readings: list[WordReading]) -> list[Any]:
        """Read uploaded files and show the first of them."""
        if not files:
            return self._fill(readings, len(readings))
        progress = self.gradio.Progress()
        total = len(files)
        new = read_files(self.reader, files, lambda count: progress((count, total), unit="pictures"))
        return self._fill([*readings, *new], len(readings) + 1)

    def records(self, files: list[str] | None) -> list[dict[str, Any]]:
        """Read word pictures: text, score, characters, size and error of each file."""
        return as_records(read_files(self.reader, files or []))

    def clear(self) -> list[Any]:
        """Forget all readings."""
        return self._fill([], 0)

    def show(self, readings: list[WordReading], number: int) -> list[str]:
        """Show the reading with a number, from 1, and mark it in the table."""
        return [show_reading(self.reader, readings[number - 1]), readings_table(readings, number)]

    def _fill(self, readings: list[WordReading], number: int) -> list[Any]:
        """Fill the page: all readings in the table, one on the card."""
        card, table = self.show(readings, number) if readings else [NOTHING_YET, ""]
        has_readings = self.gradio.update(visible=bool(readings))
        # The field for files is emptied, so that it takes the next ones.
        return [readings, None, card, has_readings, table, download_links(readings)]
