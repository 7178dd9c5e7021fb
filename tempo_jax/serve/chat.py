"""An OpenAI-style chat request as one question about one video."""

import dataclasses
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.serve import settings
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.files import Library, Uploads
from tempo_jax.serve.model import Model
from tempo_jax.serve.store import Frames, VideoFile

ROLES = ("system", "developer", "user", "assistant")
MOST_QUESTION = 20_000  # characters
# OpenAI's names of settings; of several for one, the last wins.
NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
# What cannot be served, unless it has a value that asks for nothing.
ASKS_FOR_NOTHING: dict[str, tuple] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "stop": ([],),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "audio": (),
    "modalities": (["text"],),
}
# Types of content parts that carry a picture -> the fields, one in the other, that hold its address.
VISUAL_PARTS = {
    "video_url": ("video_url", "url"),
    "image_url": ("image_url", "url"),
    "file": ("file", "file_id"),
}
ALONE = "Earlier turns and system messages were not read: every question is answered on its own."


@dataclasses.dataclass(frozen=True)
class Chat:
    """A checked request; options are what `Model.options` made of it."""

    video: VideoFile
    question: str
    frames: Frames
    options: Any
    stream: bool
    include_usage: bool
    warnings: list[str]


def parse(body: Any, model: Model, library: Library, uploads: Uploads) -> Chat:
    """ApiError (400, 403, 404, 413) for a request that cannot be served, one sentence each."""
    if not isinstance(body, dict):
        raise ApiError(400, "The request must be a JSON object with model and messages.", "invalid_json")
    check_model(body.get("model"), model.name)
    for name, harmless in ASKS_FOR_NOTHING.items():
        if body.get(name) is not None and body[name] not in harmless:
            raise ApiError(400, f"{name} is not supported: leave it out.", "unsupported_parameter", name)
    frames, options = _settings(body, model)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is empty: send a user message.", "empty_messages", "messages")
    question, addresses, others = _read(messages)
    if len(set(addresses)) != 1:
        many = f"There are {len(set(addresses))} videos or images" if addresses else "There is no video"
        said = f"{many} in the messages: send exactly one video_url or image_url part."
        raise ApiError(400, said, "one_video", "messages")
    stream = _flag(body, "stream")
    usage = body.get("stream_options")
    if usage is not None and not isinstance(usage, dict):
        raise ApiError(400, "stream_options must be an object.", "invalid_value", "stream_options")
    return Chat(
        video=find(addresses[0], library, uploads),
        question=question,
        frames=frames,
        options=options,
        stream=stream,
        include_usage=bool(usage and _flag(usage, "include_usage")),
        warnings=[ALONE] if others else [],
    )


def check_model(given: Any, model: str) -> None:
    if not isinstance(given, str):
        raise ApiError(400, f"model is missing: this server has {model!r}.", "missing_model", "model")
    if given != model:
        raise ApiError(404, f"There is no model {given[:80]!r}, but {model!r}.", "model_not_found", "model")


def _settings(body: dict, model: Model) -> tuple[Frames, Any]:
    own = body.get("tempo")
    if own is not None and not isinstance(own, dict):
        raise ApiError(400, "tempo must be an object of settings.", "invalid_value", "tempo")
    values = {ours: body[theirs] for theirs, ours in NAMES.items() if body.get(theirs) is not None}
    try:
        return settings.read({**values, **(own or {})}, model)
    except TempoError as error:
        first = str(error).split()[0]
        param = first if first in settings.SETTINGS else "tempo"
        raise ApiError(400, str(error), "invalid_value", param) from error


def _flag(body: dict, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ApiError(400, f"{name} must be true or false.", "invalid_value", name)


def _read(messages: list) -> tuple[str, list[str], bool]:
    """The last user message's text, addresses of all pictures, whether there was other text."""
    addresses: list[str] = []
    texts: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ApiError(400, f"{where} needs a role: {', '.join(ROLES)}.", "invalid_message", where)
        text, found = _content(message.get("content"), where)
        texts.append((message["role"], text))
        addresses += found
    if texts[-1][0] != "user":
        raise ApiError(400, "The last message must be the user's question.", "invalid_message", "messages")
    question = texts[-1][1].strip()
    if not question:
        raise ApiError(400, "The last message has no text: ask a question.", "empty_question", "messages")
    if len(question) > MOST_QUESTION:
        raise ApiError(
            400,
            f"The question has more than {MOST_QUESTION} characters: shorten it.",
            "too_long",
            "messages",
        )
    return question, addresses, any(text.strip() for _, text in texts[:-1])


def _content(content: Any, where: str) -> tuple[str, list[str]]:
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ApiError(400, f"{where}.content must be text or a list of parts.", "invalid_message", where)
    texts, addresses = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind in VISUAL_PARTS:
            addresses.append(_address(part, kind, where))
        else:
            raise ApiError(
                400,
                f"{where} has a part that is not text, {', '.join(VISUAL_PARTS)}: leave it out.",
                "invalid_part",
                where,
            )
    return "\n".join(texts), addresses


def _address(part: dict, kind: str, where: str) -> str:
    outer, inner = VISUAL_PARTS[kind]
    holder = part.get(outer)
    value = holder.get(inner) if isinstance(holder, dict) else holder
    if not isinstance(value, str) or not value:
        raise ApiError(
            400, f'{where} has a {kind} part without {{"{outer}": {{"{inner}": …}}}}.', "invalid_part", where
        )
    return value


def find(address: str, library: Library, uploads: Uploads) -> VideoFile:
    """The file that an address names: data: URI, uploaded file's id, path or file: URI."""
    scheme = address.split(":", 1)[0].lower() if ":" in address[:16] else ""
    if scheme == "data":
        return uploads.find(uploads.from_data_uri(address).id)
    if "://" in address and scheme != "file":
        raise ApiError(
            400,
            "This server fetches nothing from the network: upload the video, or send it as a data: URI.",
            "remote_address",
            "url",
        )
    return uploads.find(address) if address.startswith("file-") else library.find(address)
