"""An OpenAI-style chat request as one question about one video."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.prompts import Message
from tempo_jax.serve import settings
from tempo_jax.serve.bodies import MOST_FILES, DataUris, bad
from tempo_jax.serve.errors import ApiError
from tempo_jax.serve.files import MediaFolders
from tempo_jax.serve.model import Model
from tempo_jax.serve.sessions import Identity
from tempo_jax.serve.store import FrameSampling, VideoFile
from tempo_jax.serve.uploads import IDENTITY, Uploads

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_QUESTION = 20_000  # characters
MOST_CONVERSATION = 200_000  # characters of all messages together
MOST_MESSAGES = 256
MOST_STOPS, MOST_STOP = 8, 200  # texts, characters of one
Address = str | tuple[str, ...]  # of a video, or of its frames


@dataclasses.dataclass(frozen=True)
class Chat:
    """A checked request; options are what `Model.options` made of it."""

    video: VideoFile
    question: str
    conversation: tuple[Message, ...]
    frames: FrameSampling
    options: Any
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


@dataclasses.dataclass(frozen=True)
class Files:
    """Finds the files that the addresses in a request name."""

    library: MediaFolders
    uploads: Uploads
    who: Identity
    inline: DataUris  # data: URIs of this request

    def find(self, address: Address) -> VideoFile:
        """The file of a data: URI, an id, a path or file: URI; or of a list of frames."""
        if isinstance(address, tuple):
            pictures = [Path(self._one(part).path) for part in address]
            if any(path.is_dir() for path in pictures):
                raise ApiError(
                    400,
                    "A list of frames has several images in one data: URI: send one each.",
                    "invalid_data_uri",
                    "url",
                )
            return self.inline.frames(pictures).video()
        return self._one(address)

    def _one(self, address: str) -> VideoFile:
        if (inline := self.inline.take(address)) is not None:
            return inline.video()
        scheme = address.split(":", 1)[0].strip().lower() if ":" in address[:16] else ""
        if scheme == "data":
            raise bad()
        if "://" in address and scheme != "file":
            raise ApiError(
                400,
                "This server fetches nothing from the network: upload the video, or send it as a data: URI.",
                "remote_address",
                "url",
            )
        return self.by_name(address)

    def by_name(self, address: str) -> VideoFile:
        """The file of an id or a path."""
        if IDENTITY.fullmatch(address):
            return self.uploads.find(address, self.who)
        if settings.LIBRARY_ID.fullmatch(address):
            return self.library.get(address).video()
        try:
            return self.library.find(address)
        except ApiError as error:
            if error.status == 403 and address.startswith("file-"):  # a file may be called so
                self.uploads.find(address, self.who)
            raise


def parse(body: Any, model: Model, files: Files) -> Chat:
    """ApiError (400, 403, 404, 413) for a request that cannot be served, one sentence each."""
    if not isinstance(body, dict):
        raise ApiError(400, "The request must be a JSON object with model and messages.", "invalid_json")
    check_model(body.get("model"), model.name)
    settings.known(body, (*settings.REQUEST, *settings.NAMES, *settings.OURS), settings.REQUEST_NOOP_VALUES)
    chosen = settings.Settings()
    for openai_name, setting in settings.NAMES.items():
        chosen.add(setting, body.get(openai_name), openai_name)
    for name in settings.OURS:
        chosen.add(name, body.get(name), name)
    chosen.add_object(body.get("tempo"), "tempo")
    chosen.add_object(body.get("mm_processor_kwargs"), "mm_processor_kwargs")
    question, conversation, address = _read(body.get("messages"), chosen, files.inline.inside)
    frames, options = read_settings(chosen.values, model)
    usage = body.get("stream_options")
    if usage is not None and not isinstance(usage, dict):
        raise ApiError(400, "stream_options must be an object.", "invalid_value", "stream_options")
    settings.known(usage or {}, ("include_usage",), {"include_obfuscation": (False, True)}, "stream_options")
    return Chat(
        video=files.find(address),
        question=question,
        conversation=conversation,
        frames=frames,
        options=options,
        stop=_stop(body.get("stop")),
        stream=_flag(body, "stream"),
        include_usage=bool(usage and _flag(usage, "include_usage")),
    )


def check_model(name: Any, model: str) -> None:
    if not isinstance(name, str):
        raise ApiError(400, f"model is missing: this server has {model!r}.", "missing_model", "model")
    if name != model:
        raise ApiError(404, f"There is no model {name[:80]!r}, but {model!r}.", "model_not_found", "model")


def read_settings(values: dict[str, Any], model: Model) -> tuple[FrameSampling, Any]:
    """Reads settings as `settings.read`; raises ApiError 400 that names the setting."""
    try:
        return settings.read(values, model)
    except TempoError as error:
        first = str(error).split()[0]
        param = first if first in settings.SETTINGS else "tempo"
        raise ApiError(400, str(error), "invalid_value", param) from error


def _flag(body: dict, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ApiError(400, f"{name} must be true or false.", "invalid_value", name)


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    good = isinstance(texts, list) and all(
        isinstance(text, str) and 0 < len(text) <= MOST_STOP for text in texts
    )
    if not good or len(texts) > MOST_STOPS:
        message = (
            f"stop must be a text or a list of at most {MOST_STOPS}, of at most {MOST_STOP} characters each."
        )
        raise ApiError(400, message, "invalid_value", "stop")
    return tuple(texts)


def _read(
    messages: Any, chosen: settings.Settings, inside: Callable[[str], bool]
) -> tuple[str, tuple[Message, ...], Address]:
    """The last user message's text, what was said before, and the address of the one video."""
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is empty: send a user message.", "empty_messages", "messages")
    if len(messages) > MOST_MESSAGES:
        raise ApiError(
            400, f"There are more than {MOST_MESSAGES} messages: leave out the earliest.", "too_long"
        )
    addresses: dict[Address, None] = {}
    history: list[Message] = []
    for number, message in enumerate(messages):
        path = f"messages.{number}"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ApiError(400, f"{path} needs a role: {', '.join(ROLES)}.", "invalid_message", path)
        settings.known(message, ("role", "content"), settings.MESSAGE_NOOP_VALUES, path, ("name",))
        role = ROLES[message["role"]]
        text, part_addresses = _content(message.get("content"), path, chosen)
        if inside(text):
            raise ApiError(
                400, f"{path} has a data: URI as text: send it as a video_url part.", "invalid_part", path
            )
        if part_addresses and role != "user":
            raise ApiError(400, f"{path} has a video, which only the user can send.", "invalid_message", path)
        history.append(Message(role, text, video=bool(part_addresses) and not addresses))
        addresses.update(dict.fromkeys(part_addresses))
    question = check_messages(history)
    if len(addresses) != 1:
        many = f"There are {len(addresses)} videos or images" if addresses else "There is no video"
        raise ApiError(
            400,
            f"{many} in the messages: send exactly one video_url or image_url part.",
            "one_video",
            "messages",
        )
    return question, tuple(history[:-1]), next(iter(addresses))


def check_messages(messages: list[Message]) -> str:
    """The question, which comes last; ApiError 400 where there is none, or the messages are too long."""
    if messages[-1].role != "user":
        raise ApiError(400, "The last message must be the user's question.", "invalid_message", "messages")
    question = messages[-1].text.strip()
    if not question:
        raise ApiError(400, "The last message has no text: ask a question.", "empty_question", "messages")
    if len(question) > MOST_QUESTION:
        raise ApiError(
            400, f"The question has more than {MOST_QUESTION} characters: shorten it.", "too_long", "messages"
        )
    if sum(len(message.text) for message in messages) > MOST_CONVERSATION:
        raise ApiError(
            400,
            f"The messages have more than {MOST_CONVERSATION} characters: leave out the earliest.",
            "too_long",
            "messages",
        )
    return question


def _content(content: Any, path: str, chosen: settings.Settings) -> tuple[str, list[Address]]:
    if content is None:
        return "", []
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ApiError(400, f"{path}.content must be text or a list of parts.", "invalid_message", path)
    texts, addresses = [], []
    for number, part in enumerate(content):
        place = f"{path}.content.{number}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            settings.known(part, ("type", "text"), {}, place, ())
            texts.append(part["text"])
        elif isinstance(kind, str) and kind in settings.VISUAL_PARTS:
            addresses.append(_address(part, kind, path, place, chosen))
        else:
            raise ApiError(
                400,
                f"{path} has a part that is not text, {', '.join(settings.VISUAL_PARTS)}: leave it out.",
                "invalid_part",
                path,
            )
    return "\n".join(texts), addresses


def _address(part: dict, kind: str, path: str, place: str, chosen: settings.Settings) -> Address:
    """The address of a part's video; adds the settings beside it."""
    outer, inner = settings.VISUAL_PARTS[kind]
    settings.known(part, ("type", outer, *settings.SETTINGS), settings.ADDRESS_NOOP_VALUES, place, ())
    holder = part.get(outer)
    value = holder
    if isinstance(holder, dict):
        settings.known(
            holder, (inner, *settings.SETTINGS), settings.ADDRESS_NOOP_VALUES, f"{place}.{outer}", ()
        )
        value = holder.get(inner)
    for prefix, values in ((place, part), (f"{place}.{outer}", holder if isinstance(holder, dict) else {})):
        for name in settings.SETTINGS:
            chosen.add(name, values.get(name), f"{prefix}.{name}")
    if isinstance(value, list) and value and all(isinstance(frame, str) and frame for frame in value):
        if len(value) > MOST_FILES:
            raise ApiError(
                400, f"There are more than {MOST_FILES} frames in a list: send fewer.", "too_many", path
            )
        return tuple(value)
    if not isinstance(value, str) or not value:
        raise ApiError(
            400, f'{path} has a {kind} part without {{"{outer}": {{"{inner}": …}}}}.', "invalid_part", path
        )
    return value
