"""Changes to the bytes of media files that no muxer makes: what phones, editors and damage leave behind."""

import struct
from collections.abc import Callable
from pathlib import Path

TS_PACKET = 188


# --- MP4 and QuickTime boxes


def replace_box(data: bytes, way: tuple[tuple[str, int], ...], change: Callable[[bytes], bytes]) -> bytes:
    """`data` with the payload of one box changed and the sizes of its parents adjusted.

    `way`: (type, which of its kind) of each box from the outermost in. The index must lie behind the
    pictures, for their places in the file are not adjusted.
    """
    (kind, wanted), rest = way[0], way[1:]
    position, seen = 0, 0
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        if name == kind.encode("latin-1"):
            if seen == wanted:
                payload = data[position + 8 : position + size]
                payload = replace_box(payload, rest, change) if rest else change(payload)
                box = struct.pack(">I4s", len(payload) + 8, name) + payload
                return data[:position] + box + data[position + size :]
            seen += 1
        position += size or len(data)
    raise ValueError(f"no {kind} box number {wanted}")


def _track(number: int, *inner: str) -> tuple[tuple[str, int], ...]:
    return (("moov", 0), ("trak", number), *((name, 0) for name in inner))


def set_matrix(path: Path, turn: tuple[int, int, int, int], track: int = 0) -> None:
    """The display matrix of a track; `turn` is its upper left part."""
    a, b, c, d = (value * 0x10000 for value in turn)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)

    def change(header: bytes) -> bytes:
        assert header[0] == 0
        return header[:40] + matrix + header[76:]

    path.write_bytes(replace_box(path.read_bytes(), _track(track, "tkhd"), change))


def disable_track(path: Path, track: int) -> None:
    """Take the "enabled" mark off a track: players pass it over."""

    def change(header: bytes) -> bytes:
        return header[:3] + bytes([header[3] & ~1]) + header[4:]

    path.write_bytes(replace_box(path.read_bytes(), _track(track, "tkhd"), change))


def set_edits(path: Path, edits: list[tuple[int, int]], track: int = 0) -> None:
    """The edit list of a track: (length in the movie's units, start in the media's or -1 for nothing)."""
    body = struct.pack(">II", 0, len(edits))
    body += b"".join(struct.pack(">Iihh", length, start, 1, 0) for length, start in edits)
    path.write_bytes(replace_box(path.read_bytes(), _track(track, "edts", "elst"), lambda _: body))


def add_cover(path: Path, jpeg: bytes) -> None:
    """A cover picture as music and film shops put it into the tags."""

    def box(name: bytes, payload: bytes) -> bytes:
        return struct.pack(">I4s", len(payload) + 8, name) + payload

    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    item = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg))
    tags = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", item)))
    path.write_bytes(replace_box(path.read_bytes(), (("moov", 0),), lambda moov: moov + tags))


def replace_text(path: Path, old: bytes, new: bytes) -> None:
    """Overwrite a tag in place."""
    data = path.read_bytes()
    assert len(old) == len(new) and data.count(old) >= 1
    path.write_bytes(data.replace(old, new))


# --- MPEG transport streams


def _starts(data: bytes) -> list[tuple[int, int]]:
    """(packet, place of the PES header) of every packet in which a picture's PES packet starts."""
    found = []
    for packet in range(0, len(data) - TS_PACKET + 1, TS_PACKET):
        assert data[packet] == 0x47
        begins, control = data[packet + 1] & 0x40, data[packet + 3] >> 4 & 3
        place = packet + 4 + (data[packet + 4] + 1 if control & 2 else 0)
        if begins and control & 1 and data[place : place + 3] == b"\0\0\1" and data[place + 3] >> 4 == 0xE:
            found.append((packet, place))
    return found


def drop_stamps(path: Path, keep_every: int) -> None:
    """Leave a timestamp on every `keep_every`-th picture only; what it took becomes stuffing."""
    data = bytearray(path.read_bytes())
    for number, (_, place) in enumerate(_starts(data)):
        if number % keep_every:
            length = 10 if data[place + 7] & 0x40 else 5
            data[place + 7] &= 0x3F
            data[place + 9 : place + 9 + length] = b"\xff" * length
    path.write_bytes(data)


def cut_packets(path: Path, first_picture: int, last_picture: int) -> None:
    """Remove all packets from the start of one picture to that of another, as bad reception does."""
    data, starts = path.read_bytes(), _starts(path.read_bytes())
    path.write_bytes(data[: starts[first_picture][0]] + data[starts[last_picture][0] :])


def cut_start(path: Path, picture: int) -> None:
    """A recording that begins in the middle of a broadcast: tables first, then from `picture` on."""
    data = path.read_bytes()
    path.write_bytes(data[: 3 * TS_PACKET] + data[_starts(data)[picture][0] :])


# --- others


def hide_vp8(data: bytes) -> bytes:
    """A VP8 packet as an alternate reference: decoded, never shown."""
    return bytes([data[0] & ~0x10]) + data[1:]


def add_gif_comment(path: Path, text: bytes = b"made with a paint program") -> None:
    data = path.read_bytes()
    assert data[-1:] == b";"
    path.write_bytes(data[:-1] + b"\x21\xfe" + bytes([len(text)]) + text + b"\0;")


def append(path: Path, tail: bytes) -> None:
    with path.open("ab") as file:
        file.write(tail)


def prepend(path: Path, head: bytes) -> None:
    path.write_bytes(head + path.read_bytes())


# --- Matroska


def _number(data: bytes, place: int, keep_marker: bool) -> tuple[int, int]:
    """An EBML number and where it ends."""
    length = 9 - data[place].bit_length()
    value = int.from_bytes(data[place : place + length], "big")
    return (value if keep_marker else value & ~(1 << 7 * length)), place + length


def shift_blocks(path: Path, first: int, ticks: int) -> None:
    """Add to the times of all blocks from number `first` on, as a recorder does whose clock is corrected."""
    data, seen = bytearray(path.read_bytes()), 0
    place = 0
    while place < len(data):
        kind, place = _number(data, place, True)
        size, body = _number(data, place, False)
        if kind in (0x18538067, 0x1F43B675):  # segments and clusters are walked into
            place = body
            continue
        if kind == 0xA3:
            if seen >= first:
                time = struct.unpack_from(">h", data, body + 1)[0] + ticks
                struct.pack_into(">h", data, body + 1, time)
            seen += 1
        place = body + size
    path.write_bytes(data)
