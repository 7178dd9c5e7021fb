"""Which packets of a stream become pictures, from the first bytes of each: nothing is decoded.

Most packets are one picture. Not so: frames that are only referred to (VP8, VP9), single fields (H.264),
blocks of a GIF and of elementary streams that hold no picture. A checker per codec says which is which.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av

from tempo_jax.video.containers import canonical_codec

SMALL_PACKET = 64  # bytes; a packet without a picture (a delimiter, an end mark) is smaller
SMALL_VOP = 20  # bytes; FFmpeg's own limit for an MPEG-4 placeholder that repeats the picture before
_DIVX_PACKED = re.compile(rb"DivX\d+[Bb]\d+p")

# Codecs whose packets are one picture each, or whose checker below knows which are not. Of others the
# pictures are counted by decoding.
ONE_PICTURE_A_PACKET = frozenset(
    """
    h264 hevc av1 vp8 vp9 mpeg1video mpeg2video mpeg4 mjpeg mjpegb prores dnxhd ffv1 huffyuv ffvhuff utvideo
    rawvideo png gif theora h263 h263i h263p flv1 msmpeg4v1 msmpeg4v2 msmpeg4v3 wmv1 wmv2 wmv3 vc1 dvvideo
    qtrle rpza cinepak svq1 svq3 vp3 vp6 vp6f vp6a cfhd hap magicyuv v210 jpeg2000 jpegls zmbv flashsv
    flashsv2 rv10 rv20 rv30 rv40 indeo3 indeo4 indeo5 vvc
    """.split()  # noqa: SIM905
)

# A picture; no picture; perhaps one; nothing that a decoder needs at all.
PICTURE, HIDDEN, DOUBTFUL, EMPTY = "picture", "hidden", "doubtful", "empty"
Checker = Callable[[av.Packet], str]


def checker(stream: av.VideoStream) -> tuple[Checker | None, int]:
    """Returns the checker of a stream's codec.

    Args:
      stream: an open video stream with a decoder.

    Returns:
      A function of a packet, called in decoding order, that returns PICTURE, HIDDEN, DOUBTFUL or EMPTY; and
      the size in bytes below which packets have to be given to it (larger ones are pictures). None for a
      codec whose packets are not known to be pictures.
    """
    codec = canonical_codec(stream)
    extradata = bytes(stream.codec_context.extradata or b"")
    if codec not in ONE_PICTURE_A_PACKET or (codec == "mpeg4" and _DIVX_PACKED.search(extradata)):
        return None, 0
    every = 1 << 62
    if codec in ("vp8", "vp9"):
        return {"vp8": _vp8, "vp9": _vp9}[codec], every
    if codec == "gif":
        return _gif, every
    if codec == "h264":
        sps = _h264_sps(extradata)
        if sps is None:
            return (
                (None, 0)
                if stream.codec_context.field_order not in (0, 1)
                else (_H264(extradata, None), SMALL_PACKET)
            )
        return _H264(extradata, sps), SMALL_PACKET if sps.frames_only else every
    if codec in ("hevc", "mpeg2video", "mpeg1video"):
        return {"hevc": _Hevc(extradata)}.get(codec, _mpeg2), SMALL_PACKET
    if codec == "mpeg4":
        return (lambda packet: DOUBTFUL), SMALL_VOP
    return (lambda packet: PICTURE), 0


def _vp8(packet: av.Packet) -> str:
    return (
        PICTURE if memoryview(packet)[0] >> 4 & 1 else HIDDEN
    )  # show_frame of the frame tag (RFC 6386, 9.1)


def _vp9(packet: av.Packet) -> str:
    """show_frame or show_existing_frame of the uncompressed header; a superframe ends in a shown frame."""
    data = memoryview(packet)
    if data[-1] & 0xE0 == 0xC0 and len(data) > 1:
        count, size = (data[-1] & 7) + 1, 2 + ((data[-1] >> 3 & 3) + 1) * ((data[-1] & 7) + 1)
        if count > 1 and size <= len(data) and data[-size] == data[-1]:
            return PICTURE
    first = data[0]
    profile = (first >> 5 & 1) | (first >> 4 & 1) << 1
    bit = 3 - (profile == 3)  # profile 3 has a reserved bit
    if first >> bit & 1:  # show_existing_frame
        return PICTURE
    bit -= 2  # behind frame_type
    return PICTURE if first >> bit & 1 else HIDDEN


def _gif(packet: av.Packet) -> str:
    """Whether an image descriptor follows the extensions."""
    data, place = memoryview(packet), 0
    if bytes(data[:3]) == b"GIF":
        place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while place + 1 < len(data) and data[place] == 0x21:
        place += 2
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
    return PICTURE if place < len(data) and data[place] == 0x2C else HIDDEN


def _mpeg2(packet: av.Packet) -> str:
    return PICTURE if b"\x00\x00\x01\x00" in bytes(packet) else HIDDEN


# --- NAL units


def _nals(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """The NAL units of a packet; length_size 0: behind start codes."""
    if length_size:
        place = 0
        while place + length_size <= len(data):
            size = int.from_bytes(data[place : place + length_size], "big")
            place += length_size
            yield data[place : place + size]
            place += size
        return
    stream = bytes(data)
    place = stream.find(b"\x00\x00\x01")
    while place >= 0:
        following = stream.find(b"\x00\x00\x01", place + 3)
        yield data[place + 3 : following if following >= 0 else len(data)]
        place = following


class _Hevc:
    def __init__(self, extradata: bytes):
        self._length_size = (extradata[21] & 3) + 1 if len(extradata) > 22 and extradata[0] == 1 else 0

    def __call__(self, packet: av.Packet) -> str:
        kinds = {nal[0] >> 1 & 63 for nal in _nals(memoryview(packet), self._length_size) if len(nal)}
        if any(kind < 32 for kind in kinds):
            return PICTURE
        return EMPTY if kinds.isdisjoint({32, 33, 34}) else HIDDEN  # parameter sets


class _Bits:
    """Reads the bits of a NAL unit; emulation prevention bytes are taken out."""

    def __init__(self, nal: bytes):
        data = nal.replace(b"\x00\x00\x03", b"\x00\x00")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def bits(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the unit ends early")
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


class _Sps(NamedTuple):
    """The fields of a sequence parameter set that H.264 slices need (ITU-T H.264, 7.3.2.1.1)."""

    frames_only: bool
    frame_number_bits: int
    separate_planes: bool


_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


def _h264_sps(extradata: bytes) -> _Sps | None:
    """The first sequence parameter set of a stream's extradata; None without a readable one."""
    if not extradata:
        return None
    if extradata[0] == 1:
        units = [extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]] if len(extradata) > 8 else []
    else:
        units = [bytes(nal) for nal in _nals(memoryview(extradata), 0)]
    try:
        return next((_parse_sps(unit) for unit in units if unit and unit[0] & 31 == 7), None)
    except ValueError:
        return None


def _parse_sps(unit: bytes) -> _Sps:
    reader = _Bits(unit[1:])
    profile = reader.bits(8)
    reader.bits(16)
    reader.ue()
    separate = False
    if profile in _HIGH_PROFILES:
        chroma = reader.ue()
        separate = bool(reader.bits(1)) if chroma == 3 else False
        reader.ue(), reader.ue(), reader.bits(1)
        if reader.bits(1):
            for number in range(12 if chroma == 3 else 8):
                if reader.bits(1):
                    _skip_scaling_list(reader, 16 if number < 6 else 64)
    frame_number_bits = reader.ue() + 4
    order = reader.ue()
    if order == 0:
        reader.ue()
    elif order == 1:
        reader.bits(1), reader.se(), reader.se()
        for _ in range(reader.ue()):
            reader.se()
    reader.ue(), reader.bits(1), reader.ue(), reader.ue()
    return _Sps(bool(reader.bits(1)), frame_number_bits, separate)


def _skip_scaling_list(reader: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.se()) % 256
        last = following or last


class _H264:
    """Pairs the fields of a frame, which may come in a packet each, as the decoder does."""

    def __init__(self, extradata: bytes, sps: _Sps | None):
        self._length_size = (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
        self._sps = sps
        self._waiting: tuple[int, int] | None = None  # frame number and parity of a first field

    @property
    def pairs_fields(self) -> bool:
        return self._sps is not None and not self._sps.frames_only

    def __call__(self, packet: av.Packet) -> str:
        fields: set[int] = set()
        kinds: set[int] = set()
        number = None
        for nal in _nals(memoryview(packet), self._length_size):
            kinds.update(nal[0] & 31 for _ in nal[:1])
            if not len(nal) or nal[0] & 31 not in (1, 2, 5):
                continue
            if not self.pairs_fields:
                return PICTURE
            number, parity = self._slice(bytes(nal[1:40]))
            if parity is None:
                self._waiting = None
                return PICTURE
            fields.add(parity)
            if len(fields) == 2:
                self._waiting = None
                return PICTURE
        if number is None:
            return EMPTY if kinds.isdisjoint({7, 8, 13, 15}) else HIDDEN  # parameter sets
        (parity,) = fields
        if self._waiting == (number, 1 - parity):
            self._waiting = None
            return HIDDEN
        self._waiting = (number, parity)
        return PICTURE

    def _slice(self, header: bytes) -> tuple[int, int | None]:
        """Frame number, and 0 or 1 for a top or bottom field (None: a frame)."""
        reader = _Bits(header)
        try:
            reader.ue(), reader.ue(), reader.ue()
            if self._sps.separate_planes:
                reader.bits(2)
            number = reader.bits(self._sps.frame_number_bits)
            return number, (reader.bits(1) if reader.bits(1) else None)
        except ValueError:
            return -1, None
