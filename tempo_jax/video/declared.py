"""Declarations in the headers of media files: whether the file is complete, and why it is unreadable.

FFmpeg reads past a missing end silently, so each container's own statement of its length is
held against the file: box sizes of MP4, the segment of Matroska, RIFF chunks, Ogg's last page, ...
"""

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

TAIL = 1 << 17  # bytes at a file's end that are searched for its last packet
GIF_END = 0.98  # of a GIF, behind which its end mark is; some have a little more behind it
_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex"}  # boxes of boxes that are walked into
_KNOWN_BOXES = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"ssix", b"meta"),
    *(b"uuid", b"mfra", b"udta", b"pnot", b"emsg", b"prft", b"pdin", b"junk"),
}


def fault(path: Path, container: str) -> str | None:
    """Says whether a file ends before the end that it declares, or has holes.

    Args:
      path: the file.
      container: FFmpeg's name of its format, such as "mov,mp4,m4a,3gp,3g2,mj2".

    Returns:
      "is cut short: " or "is damaged: " and what is missing; None where nothing is known to be.
    """
    check = next((CHECKS[name] for name in container.split(",") if name in CHECKS), None)
    if check is None:
        return None
    try:
        with path.open("rb") as file:
            return check(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError, struct.error, IndexError):
        return None  # whatever these bytes are, they declare nothing


def refusal(path: Path) -> str | None:
    """The sentence for a file that FFmpeg cannot use, where its own bytes say why; None otherwise."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(12)
            if head[4:8] not in _KNOWN_BOXES:
                return None
            found = list(boxes(file, 0, size))
            kinds = {kind for kind, _, _ in found}
            entry = next((video_entry(file, start, end) for k, start, end in found if k == b"moov"), None)
    except (OSError, ValueError, struct.error):
        return None
    if entry == "encv":
        return (
            f"{path} is encrypted (protected against copying), so its pictures cannot be decoded: get a copy "
            "without protection."
        )
    if b"moov" not in kinds and b"moof" in kinds:
        return (
            f"{path} is a segment of a streamed video without its beginning (the init segment): join it "
            "behind that one."
        )
    if b"moov" not in kinds:
        return (
            f"{path} is incomplete: its index (the moov box) is missing, so no frame can be decoded; "
            "get a complete copy."
        )
    if kinds.isdisjoint({b"mdat", b"moof"}):
        return (
            f"{path} is only the beginning of a streamed video (an init segment) and holds no pictures: "
            "join its media segments to it."
        )
    if entry and entry != "avc1":
        return f"{path} uses a video codec that cannot be decoded here ({entry}): convert it to H.264."
    return None


# --- MP4, MOV, HEIF: boxes


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, first byte of the content, end) of the ISO boxes between two places of a file."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, kind = struct.unpack(">I4s", head[:8])
        content = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", head[8:16])
            content += 8
        elif size == 0:
            size = end - start
        if size < content - start:
            return
        yield kind, content, start + size
        start += size


def video_entry(file: BinaryIO, start: int, end: int) -> str | None:
    """The sample entry ("avc1", "encv", …) of the first video track in a moov box; None without one."""
    handler, entries = None, []
    for kind, content, stop in boxes(file, start, end):
        if kind in _PARENTS:
            entry = video_entry(file, content, min(stop, end))
            if entry:
                if kind != b"mdia":
                    return entry
                entries.append(entry)
        elif kind == b"hdlr":
            file.seek(content + 8)
            handler = file.read(4)
        elif kind == b"stsd":
            file.seek(content + 12)
            return file.read(4).decode("latin-1").strip()
    return entries[0] if entries and handler in (b"vide", None) else None


def _boxes(file: BinaryIO, size: int) -> str | None:
    for kind, _, end in boxes(file, 0, size):
        if kind not in _KNOWN_BOXES:
            return None  # padding behind the last box
        if end > size:
            return _missing(end - size, end)
    return None


# --- Matroska, RIFF, ASF: lengths in the header


def _vint(data: bytes, place: int, marked: bool) -> tuple[int, int, bool]:
    """An EBML number at `place`: value, place behind it, whether all its bits are set (unknown)."""
    length = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + length], "big")
    unmarked = value & ((1 << 7 * length) - 1)
    return (value if marked else unmarked), place + length, unmarked == (1 << 7 * length) - 1


def _matroska(file: BinaryIO, size: int) -> str | None:
    head = file.read(4096)
    place = 0
    for _ in range(2):
        element, place, _ = _vint(head, place, marked=True)
        length, place, unknown = _vint(head, place, marked=False)
        if element == 0x18538067:  # the segment
            end = place + length
            return None if unknown or end <= size else _missing(end - size, end)
        place += length
    return None


def _riff(file: BinaryIO, size: int) -> str | None:
    place = 0
    while place + 12 <= size:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            return None
        if length in (0, 0xFFFFFFFF):  # written live
            return None
        place += 8 + length + length % 2
    return _missing(place - size, place) if place > size + 1 else None


_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the GUID of the file properties


def _asf(file: BinaryIO, size: int) -> str | None:
    head = file.read(1 << 16)
    place = head.find(_ASF_FILE)
    if place < 0:
        return None
    (length,) = struct.unpack_from("<Q", head, place + 40)
    (flags,) = struct.unpack_from("<I", head, place + 88)
    return None if flags & 1 or length <= size else _missing(length - size, length)


# --- streams of pages, packets, tags, blocks: how the last one ends


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32 (RFC 3533): zlib's polynomial, with bits in the other order and no inversion."""
    unsigned_page = page[:22] + bytes(4) + page[26:]
    reflected = zlib.crc32(unsigned_page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Every page has a checksum and a number, and the last one of a stream a mark."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place, count, broken, ended = 0, 0, 0, False
        following: dict[bytes, int] = {}  # serial number of a stream -> its next page
        while (start := data.find(b"OggS", place)) >= 0:
            broken += start > place
            table = data[start + 27 : start + 27 + data[start + 26]] if start + 27 <= size else b""
            stop = start + 27 + len(table) + sum(table)
            page = data[start:stop]
            if (
                len(page) < stop - start
                or len(page) < 27
                or _ogg_checksum(page) != int.from_bytes(page[22:26], "little")
            ):
                broken, place = broken + 1, start + 4
                while place < size and data[place : place + 4] != b"OggS":
                    place = data.find(b"OggS", place)
                    if place < 0:
                        place = size
                continue
            serial, number = page[14:18], int.from_bytes(page[18:22], "little")
            broken += following.get(serial, number) != number
            following[serial] = number + 1
            ended |= bool(page[5] & 4)
            place, count = stop, count + 1
        broken += place < size
    if broken:
        return f"is damaged: {broken} of its {count + broken} pages are broken or missing"
    return None if ended else "is cut short: the page that ends an Ogg file is missing"


def _transport(file: BinaryIO, size: int) -> str | None:
    head = file.read(1024)
    for length, first in ((188, 0), (192, 4), (204, 0)):
        if len(head) > first + 3 * length and all(head[first + k * length] == 0x47 for k in range(4)):
            rest = size % length
            return f"is cut short: its last packet has {rest} of {length} bytes" if rest else None
    return None


def _flv(file: BinaryIO, size: int) -> str | None:
    """Every tag is followed by its own length."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (place,) = struct.unpack(">I", data[5:9])
        place += 4
        while place + 15 <= size:
            length = 11 + int.from_bytes(data[place + 1 : place + 4], "big")
            stop = place + length
            if stop + 4 > size:
                break
            if data[place] & 31 not in (8, 9, 18) or int.from_bytes(data[stop : stop + 4], "big") not in (
                length,
                0,
            ):
                return f"is damaged: its tags break off after {place} of {size} bytes"
            place = stop + 4
    return None if size - place <= 4 else "is cut short: its last tag is not whole"


def _program_stream(file: BinaryIO, size: int) -> str | None:
    """The last packet says how long it is."""
    file.seek(max(0, size - TAIL))
    tail = file.read()
    for place in range(len(tail) - 6, -1, -1):
        if tail[place : place + 3] == b"\0\0\1" and (
            tail[place + 3] in (0xBD, 0xBE, 0xBF) or 0xC0 <= tail[place + 3] < 0xF0
        ):
            missing = place + 6 + int.from_bytes(tail[place + 4 : place + 6], "big") - len(tail)
            return f"is cut short: {missing} bytes of its last packet are missing" if missing > 0 else None
    return None


def _gif(file: BinaryIO, size: int) -> str | None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = 13 + _color_table(data[10])
        while place < size:
            kind = data[place]
            if kind == 0x3B:
                early = place < GIF_END * size
                return f"is damaged: it ends after {place} of its {size} bytes" if early else None
            if kind == 0x21:  # an extension
                place = _behind_blocks(data, place + 2)
            elif kind == 0x2C:  # a picture
                place = _behind_blocks(data, place + 11 + _color_table(data[place + 9]))
            else:
                return f"is damaged: its blocks break off after {place} of {size} bytes"
    return "is cut short: the byte that ends a GIF is missing"


def _color_table(packed: int) -> int:
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _behind_blocks(data: mmap.mmap, place: int) -> int:
    while place < len(data) and data[place]:
        place += data[place] + 1
    return place + 1


def _missing(count: int, total: int) -> str:
    return f"is cut short: {count} of its {total} bytes are missing"


CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "mov": _boxes,
    "matroska": _matroska,
    "avi": _riff,
    "webp_pipe": _riff,
    "asf": _asf,
    "ogg": _ogg,
    "mpegts": _transport,
    "flv": _flv,
    "gif": _gif,
    "mpeg": _program_stream,
}
