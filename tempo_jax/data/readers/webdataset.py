"""Webdataset: a tar in which the files of one key are a sample, as 0001.json with 0001.jpg or 0001.mp4."""

import dataclasses
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from tempo_jax.data import media_names
from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.record import FRAME_KEYS, IMAGE_KEYS, VIDEO_KEYS, Entry
from tempo_jax.errors import TempoError

WORDS = ("txt", "caption", "text")


@dataclasses.dataclass(frozen=True)
class Member:
    """The position of a file in the tar; `ending` follows the key, as "json" or "0.jpg"."""

    ending: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Group:
    """The files of one key, yet to be read."""

    path: str
    key: str
    members: tuple[Member, ...]

    def load(self) -> Any:
        """Its JSON, with media as bytes and other texts by their endings."""
        record: dict[str, Any] = {}
        shown: dict[str, list] = {"image": [], "video": []}
        with open(self.path, "rb") as file:
            for member in self.members:
                file.seek(member.offset)
                data = file.read(member.size)
                name = f"{self.key}.{member.ending}"
                if media_names.ending(name):
                    kind = "video" if media_names.is_video(name) else "image"
                    shown[kind].append({"bytes": data, "path": name})
                elif member.ending == "json":
                    record |= _json(data)
                elif member.ending in WORDS:
                    record[member.ending] = data.decode("utf-8-sig", "replace").strip()
        if any(shown.values()):  # what lies beside the JSON, instead of the names that it has for it
            record = {k: v for k, v in record.items() if k not in (*IMAGE_KEYS, *VIDEO_KEYS, *FRAME_KEYS)}
        return {"__key__": self.key} | record | {kind: found for kind, found in shown.items() if found}


def _json(data: bytes) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample("broken line", f"its JSON is not valid ({error})") from error
    return value if isinstance(value, dict) else {"conversations": value}


def read(path: Path) -> list[Entry]:
    """An entry a key. TempoError where the file is no plain tar."""
    groups: dict[str, list[Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                    folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
                    stem, _, ending = name.partition(".")
                    key = stem if folder == "." else f"{folder}/{stem}"
                    found = Member(ending.lower(), member.offset_data, member.size)
                    groups.setdefault(key, []).append(found)
    except (OSError, tarfile.TarError) as error:
        raise TempoError(
            f"{path} is no whole, unpacked tar ({error}): get a complete copy, without compression."
        ) from error
    return [Entry(f"key {key}", Group(str(path), key, tuple(members))) for key, members in groups.items()]
