"""JSON: a list of records, or one record per line; also compressed with gzip."""

import codecs
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from tempo_jax.data.preparation import BadSample
from tempo_jax.data.readers.record import Entry
from tempo_jax.errors import TempoError

GZIP = b"\x1f\x8b"


def read(path: Path) -> list[Entry]:
    """Reads the records of a file, lines unparsed; raises TempoError where it cannot be read."""
    try:
        data = path.read_bytes()
        if data.startswith(GZIP):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TempoError(f"{path} is damaged ({error}): get a complete copy.") from error
    except OSError as error:
        raise TempoError(f"{path} cannot be read ({error.strerror}): give a .json or .jsonl file.") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.lstrip()[:1] == b"[":
        return [Entry(f"record {i}", value) for i, value in enumerate(_list(path, data), start=1)]
    lines = enumerate(data.split(b"\n"), start=1)
    entries = [Entry(f"line {i}", line) for i, line in lines if line.strip()]
    return _records_of_object(data) or entries if len(entries) > 1 else entries


def _records_of_object(data: bytes) -> list[Entry]:
    """Returns the records of one multi-line object: a list under one key, or a mapping by id."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return []
    lists = [found for found in value.values() if isinstance(found, list)] if isinstance(value, dict) else []
    if (
        len(lists) == 1
        and len(value) <= 3
        and all(isinstance(one, dict) for one in lists[0])
        and "id" not in value
    ):
        return [Entry(f"record {i}", one) for i, one in enumerate(lists[0], start=1)]
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return [Entry(f"record {name}", {"id": name} | one) for name, one in value.items()]
    return [Entry("record 1", value)] if isinstance(value, dict) else []


def _list(path: Path, data: bytes) -> list:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TempoError(
            f"{path} is no valid JSON ({error}): repair it, or write one record a line, "
            "of which only the broken ones are then left out."
        ) from error


def parsed(content: Any) -> dict:
    """A record as an object. Raises BadSample."""
    if isinstance(content, bytes):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadSample("broken line", f"it is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadSample("malformed record", f"it is of type {type(content).__name__}, not an object")
    return content
