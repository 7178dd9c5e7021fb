"""The web page: upload or pick a video, ask, see where the tokens went. Needs Gradio.

It is a client of the service as the HTTP API is: the same queue, the same open videos.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves this machine

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from tempo_jax.serve import settings, views
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.events import ask
from tempo_jax.serve.files import Library, Uploads, video_file
from tempo_jax.serve.model import Model
from tempo_jax.serve.service import Done, Failed, Piece, Progress, Service, internal, log
from tempo_jax.serve.store import VideoFile

PLAYER = "tempo-player"  # element id
FONTS = ("system-ui", "sans-serif")  # of the visitor's machine: no font is fetched from anywhere
MOST_EXAMPLES = 6
KEPT_SECONDS = 24 * 3600  # uploads on the page
INTRODUCTION = """# Tempo
Ask about a video, from seconds to hours long. The first question opens it; further ones come faster.
"""
BUDGET = 8192  # where a model's own depends on the video
# Settings on the page, in order -> what they are called there.
LABELS = {
    "budget": "Visual tokens to spend",
    "max_frames": "Frames to look at, at most",
    "max_new_tokens": "Length of the answer, in tokens at most",
    "temperature": "Temperature (0 is greedy)",
}


async def _fetch_nothing(url: str) -> None:
    raise gr.Error("This server fetches nothing from the network: upload the video.", print_exception=False)


def mount(app: FastAPI, service: Service, library: Library, uploads: Uploads) -> None:
    """Puts the page at / of the application, behind the API's own paths."""
    # Gradio would download a video that is given as a web address, and keep uploads for ever.
    processing_utils.async_ssrf_protected_get = _fetch_nothing
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder / "page")
    if library.folders:
        gr.set_static_paths(library.folders)  # served from where they are, not copied
    blocks = build(service, library)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        allowed_paths=[str(folder) for folder in library.folders],
        max_file_size=service.limits.upload_bytes,
        theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
        css=views.CSS,
        head=f"<script>{views.SCRIPT}</script>",
        footer_links=[],
        run_history=False,
        mcp_server=False,
        ssr_mode=False,
        show_error=True,
    )


def build(service: Service, library: Library) -> gr.Blocks:
    with gr.Blocks(title="Tempo", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS)) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=300):
                names = library.names()
                pick = gr.Dropdown(names, value=None, label="Pick a video", visible=bool(names))
                player = gr.Video(label="… or upload one", sources=["upload"], elem_id=PLAYER, height=300)
                question = gr.Textbox(label="Question", max_lines=8, elem_id="tempo-question")
                with gr.Row():
                    clear = gr.Button("Clear", min_width=80)
                    stop = gr.Button("Stop", min_width=80)
                    go = gr.Button("Ask", variant="primary", min_width=80, elem_id="tempo-ask")
                controls, compare = _controls(service.model)
                _examples(library, pick, question)
            with gr.Column(min_width=300, scale=2), gr.Row():
                with gr.Column(min_width=280):
                    first = _output("Answers")
                with gr.Column(min_width=280, visible=False) as other:
                    second = _output("The same with the other settings")
        compare.change(lambda on: gr.update(visible=on), compare, other, api_visibility="private")
        pick.change(
            lambda name: library.find(name).path if name else None, pick, player, api_visibility="private"
        )

        async def answer(*values: Any) -> AsyncIterator[list]:
            async for update in Asking(service, library).run(*values):
                yield update

        inputs = [player, question, first[0], second[0], compare, *controls]
        event = gr.on(
            [go.click, question.submit],
            answer,
            inputs,
            [question, *first, *second],
            concurrency_limit=None,  # the service has a queue of its own
            show_progress="hidden",
            api_visibility="private",
        )
        stop.click(None, cancels=[event], api_visibility="private")
        clear.click(
            lambda: [None, None, "", *views.NOTHING, *views.NOTHING],
            None,
            [pick, player, question, *first, *second],
            api_visibility="private",
        )
    return blocks


def _output(label: str) -> list:
    """Chat, statistics, plot, thumbnails."""
    # Neither questions nor answers are Markdown.
    chat = gr.Chatbot(label=label, height=320, render_markdown=False, feedback_options=None, buttons=["copy"])
    return [chat, gr.HTML(""), gr.HTML(""), gr.HTML("")]


def _controls(model: Model) -> tuple[list, gr.Checkbox]:
    """Every setting twice: for the answer, and for the one beside it."""
    with gr.Accordion("Advanced", open=False):
        controls = _one_set(model, "")
        compare = gr.Checkbox(False, label="Compare with other settings, side by side")
        with gr.Group(visible=False) as group:
            controls += _one_set(model, "Other: ")
        compare.change(lambda on: gr.update(visible=on), compare, group, api_visibility="private")
    return controls, compare


def _one_set(model: Model, prefix: str) -> list:
    defaults = {**vars(model.frames), **vars(model.options())}
    made = []
    for name, label in LABELS.items():
        low, high, step = settings.SETTINGS[name].slider
        value = BUDGET if defaults[name] is None else defaults[name]
        made.append(gr.Slider(low, high, value=value, step=step, label=prefix + label))
    strategies = list(model.strategies)
    made.append(gr.Dropdown(strategies, value=defaults["strategy"], label=prefix + "What to keep"))
    made.append(
        gr.Checkbox(True, label=prefix + "Compress (off: every token is kept, the published baseline)")
    )
    return made


NAMES = (*LABELS, "strategy", "compress")


def _examples(library: Library, pick: gr.Dropdown, question: gr.Textbox) -> None:
    if rows := example_rows(library):
        gr.Examples(rows, [pick, question], label="Examples", elem_id="tempo-examples")


def example_rows(library: Library) -> list[list[str]]:
    """[video, question] of questions.jsonl files (minireel's) in the library's folders."""
    rows = []
    for folder in library.folders:
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
            for line in (folder / "questions.jsonl").read_text("utf-8").splitlines():
                row = json.loads(line)
                if (folder / row["video"]).is_file():
                    rows.append([row["video"], row["conversations"][0]["value"].removeprefix("<video>\n")])
    return rows[:MOST_EXAMPLES]


@dataclasses.dataclass
class Asking:
    """One press of the button: one question, or the same with two sets of settings."""

    service: Service
    library: Library

    async def run(
        self, player: str | None, question: str, history: list, other: list, compare: bool, *values: Any
    ) -> AsyncIterator[list]:
        """Yields the values of [question, 4 outputs, 4 outputs] as the answers come."""
        if not player or not question.strip():
            sentence = "Write a question first." if player else "Upload or pick a video first."
            raise gr.Error(sentence, print_exception=False)
        half = len(NAMES)
        sets = [dict(zip(NAMES, values[:half])), dict(zip(NAMES, values[half:]))]
        shown = [[history or [], "", "", ""], [other or [], "", "", ""]]
        for place, chosen in enumerate(sets[: 1 + bool(compare)]):
            async for update in self._one(player, question, shown[place][0], chosen):
                shown[place] = update
                yield ["", *shown[0], *shown[1]]

    async def _one(self, path: str, question: str, history: list, chosen: dict) -> AsyncIterator[list]:
        """Yields [chat, statistics, plot, thumbnails]."""
        text, status = "", "waiting …"
        history = [*history, {"role": "user", "content": question}]

        def chat() -> list:
            return [*history, {"role": "assistant", "content": text or "…"}]

        yield [chat(), views.status(status), "", ""]
        try:
            frames, options = settings.read(chosen, self.service.model)
            video = self._video(path)
            events = ask(self.service, video=video, question=question, frames=frames, options=options)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Done):
                        text = event.answer.text
                        yield [chat(), *views.done(event, PLAYER)]
                        return
                    if isinstance(event, Piece):
                        text += event.text
                    if isinstance(event, Progress):
                        status = f"{event.stage} {event.done}/{event.total}"
                    yield [chat(), views.status(status), "", ""]
        except Exception as error:
            if internal(error) and not isinstance(error, ApiError):
                log.error("a question on the page failed", exc_info=error)
            text = api_error(error).message
            yield [chat(), views.status("failed"), "", ""]

    def _video(self, path: str) -> VideoFile:
        resolved = Path(path).resolve()
        inside = any(resolved.is_relative_to(folder) for folder in self.library.folders)
        return self.library.find(str(resolved)) if inside else video_file(resolved, resolved.name)
