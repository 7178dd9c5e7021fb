"""OpenAI's and Hugging Face's chats: {"messages": [{"role", "content": text or a list of parts}]}."""

from collections.abc import Mapping
from typing import Any

from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.turns import each, turn

KINDS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "images"),
    **dict.fromkeys(("video", "video_url", "input_video"), "videos"),
}


def takes(record: Mapping[str, Any]) -> bool:
    """Returns whether the record has messages, or conversations that are."""
    found = record.get("messages")
    if found is not None:
        return True
    found = record.get("conversations")
    return isinstance(found, list) and bool(found) and isinstance(found[0], Mapping) and "role" in found[0]


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its turns; what parts show is under "images" and "videos"."""
    name = "messages" if record.get("messages") is not None else "conversations"
    return each(record[name], name, _one)


def _one(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadSample("malformed conversation", 'a message is not {"role": name, "content": text or parts}')
    content = value.get("content", value.get("value"))
    if isinstance(content, str):
        return turn(value.get("role"), content)
    words, shown = [], {"images": [], "videos": []}
    for part in content if isinstance(content, list | tuple) else (content,):
        if isinstance(part, str):
            words.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            words.append(part["text"])
        elif kind in KINDS:
            if (medium := part.get(kind, part.get("url", part.get("path")))) is not None:
                shown[KINDS[kind]].append(medium)
            words.append("<image>\n")  # where it stands; media of `images` or `videos` are named elsewhere
        else:
            raise BadSample(
                "malformed conversation", f"a message has a part of type {kind!r}: give text or images"
            )
    return turn(value.get("role"), "".join(words)) | {name: found for name, found in shown.items() if found}
