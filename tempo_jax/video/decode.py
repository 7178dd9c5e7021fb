"""Exact frames of a video file at given indices, decoded as a stream.

Frame i is the i-th in presentation order. Nothing but the decoder's own few frames is held, so
memory does not depend on the length of the video.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import av
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.video import declared, ffmpeg_log, pictures
from tempo_jax.video.containers import open_container, packets
from tempo_jax.video.file_index import VideoIndex

# Decoding this many frames more is cheaper than a seek, which throws away those under way in the
# decoder's threads.
SEEK_MARGIN = 16
LANDING_FRAMES = 64  # decoded after a seek, at most, before the first keyframe must have come
NEARBY = 256  # frames ahead in which a stamp is looked for first


class FrameReader:
    """One pass over a file.

    Attributes:
      errors: packets and frames that could not be decoded, and patches that the decoder tells of.
      stand_ins: wanted frames that were replaced by the nearest good one.
      place: bytes into the file of the last packet read.
    """

    def __init__(self, index: VideoIndex, wanted: np.ndarray, repeats: np.ndarray):
        """`wanted`: ascending, distinct frame numbers, int64 [n]; `repeats`: how often to give each."""
        self._index = index
        self._wanted = wanted
        self._repeats = repeats
        pts = index.pts
        self._wanted_pts = set() if pts is None else {int(x) for x in pts[wanted]}
        self._ascending = pts is not None and bool((np.diff(pts) > 0).all())
        self._container: av.container.InputContainer | None = None
        self._seeks = True
        self._log = contextlib.ExitStack()
        self._logged: ffmpeg_log.Counter | None = None
        self.errors = 0
        self.stand_ins = 0
        self.place = 0

    def pixels(self, convert: Callable[[av.VideoFrame], np.ndarray]) -> Iterator[np.ndarray]:
        """RGB of every wanted frame, repeated as asked; always exactly as many as were asked for.

        Raises TempoError if nothing can be decoded any more.
        """
        last, num_read = None, 0
        with contextlib.closing(iter(self)) as frames:
            for frame, exact in frames:
                self.stand_ins += not exact
                last = convert(frame)
                yield from itertools.repeat(last, self._repeats[num_read])
                num_read += 1
        if last is None:
            raise TempoError(
                f"{self._index.path} could be opened but no longer be decoded: was it changed meanwhile?"
            )
        self.stand_ins += len(self._wanted) - num_read
        yield from itertools.repeat(last, self._repeats[num_read:].sum())

    def warnings(self) -> list[str]:
        """Messages about errors of the pass so far."""
        name = self._index.path.name
        if self.stand_ins:
            return [
                f"{name} is damaged: {self.stand_ins} of {len(self._wanted)} sampled frames could not be "
                "decoded, and the nearest good frame stands in for each."
            ]
        if self.errors:
            return [
                f"{name} is damaged: {self.errors} of its frames failed to decode; others may show faults."
            ]
        return []

    def close(self) -> None:
        """Closes the file. The decoder is run idle first: see `ffmpeg_log.counting`."""
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, ValueError, OSError):
                self._stream.codec_context.decode(None)
            self._container.close()
            self._container = self._stream = None
        if self._logged is not None:
            self.errors += self._logged.errors()
            self._logged = None
        self._log.close()

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """(frame, whether it is the very one) for every wanted frame, in order.

        A frame that cannot be decoded is replaced by the nearest one that can. Yields nothing if
        the file has no decodable frame at all. Closes the file at the end or when abandoned.
        """
        try:
            yield from self._by_count() if self._index.pts is None else self._by_stamp()
        finally:
            self.close()

    def every_frame(self) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded, from the start, in presentation order."""
        self._open()
        return self._decoded(may_skip=False)

    def _open(self) -> None:
        self.close()
        self._logged = self._log.enter_context(ffmpeg_log.counting())
        self._container = open_container(self._index.path)
        self._stream = self._container.streams[self._index.stream]
        self._stream.thread_type = "AUTO"

    def _decoded(self, may_skip: bool) -> Iterator[av.VideoFrame]:
        """Frames from the current position on.

        Frames nothing else refers to are not decoded unless wanted (`may_skip`): at 2 frames per
        second that spares most B-frames and changes no other frame.
        """
        context = self._stream.codec_context
        check, below = pictures.checker(self._stream)
        may_skip &= self._index.skippable
        skipping = False
        for packet in packets(self._container, self._stream):
            skip = may_skip and packet.pts not in self._wanted_pts
            if skip != skipping:
                context.skip_frame = "NONREF" if skip else "DEFAULT"
                skipping = skip
            self.place = packet.pos or self.place
            small = check is not None and packet.size < min(below, pictures.SMALL_PACKET)
            if small and check(packet) == pictures.EMPTY:  # decoders call it an error
                continue
            yield from self._decode(context, packet)
        yield from self._decode(context, None)

    def _decode(self, context: av.VideoCodecContext, packet: av.Packet | None) -> Iterator[av.VideoFrame]:
        try:
            frames = context.decode(packet)
        except (av.FFmpegError, ValueError, OSError):
            self.errors += 1
            return
        for frame in frames:
            self._logged.frame()
            if frame.is_corrupt:
                self.errors += 1
            else:
                yield frame

    def _by_count(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decodes everything and counts, for files whose frames have no usable timestamps."""
        frames, number, frame = self.every_frame(), -1, None
        for index in self._wanted:
            while number < index and (following := next(frames, None)) is not None:
                number, frame = number + 1, following
            if frame is None:
                return
            yield frame, number == index

    def _by_stamp(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Frames are known by their pts, so a seek may skip what lies between two wanted ones."""
        self._open()
        frames = self._numbered(self._decoded(may_skip=True), 0)
        before: tuple[int, av.VideoFrame] | None = None
        after: tuple[int, av.VideoFrame] | None = None
        started = self._index.leading == 0
        for index in map(int, self._wanted):
            if self._seeks and self._keyframe(index) > (0 if after is None else after[0]) + SEEK_MARGIN:
                frames, first = self._seek(index)
                # A failed seek has started over, and `before` is then only a stand-in as any other.
                before, after = after, first
            while after is None or after[0] < index:
                following = next(frames, None)
                if following is None:
                    break
                if not started:  # what failed until here lacks what it refers to, before the file's start
                    started, self.errors = True, 0
                before, after = after, following
            if after is None:
                return
            if after[0] == index:
                yield after[1], True
            else:
                yield _nearest(before, after, index)[1], False

    def _numbered(self, frames: Iterator[av.VideoFrame], number: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers, of which none is below `number`; others are passed over."""
        for frame in frames:
            index = self._number(frame, number)
            if index is not None:
                yield index, frame
                number = index if self._ascending else index + 1

    def _number(self, frame: av.VideoFrame, least: int) -> int | None:
        """The number of a decoded frame, `least` or above; None for one that the index does not have."""
        pts, stamp = self._index.pts, frame.pts
        if stamp is None:
            return None
        if self._ascending:
            number = int(np.searchsorted(pts, stamp))
            return number if number < len(pts) and pts[number] == stamp else None
        for part in (slice(least, least + NEARBY), slice(least + NEARBY, None)):
            (places,) = np.nonzero(pts[part] == stamp)
            if len(places):
                return part.start + int(places[0])
        return None

    def _keyframe(self, index: int) -> int:
        """The last keyframe at or before frame `index`; 0 if there is none."""
        place = int(np.searchsorted(self._index.keyframes, index, side="right"))
        return int(self._index.keyframes[place - 1]) if place else 0

    def _seek(
        self, index: int
    ) -> tuple[Iterator[tuple[int, av.VideoFrame]], tuple[int, av.VideoFrame] | None]:
        """Go to the keyframe of frame `index`; the frames from there on and the first of them.

        Some containers land later than asked, and some call a frame a keyframe that is none: only a
        decoded key frame counts. Then the keyframe before is tried, then the one before that, and at
        last the file is read from its start, which is always right.
        """
        pts, key = self._index.pts, index
        for _ in range(3):
            key = self._keyframe(key)
            try:
                self._container.seek(int(pts[key]), stream=self._stream, backward=True)
            except (av.FFmpegError, OSError):
                break
            errors = self.errors
            self._logged.seek()
            frames = self._decoded(may_skip=True)
            first = self._landed(frames, index)
            if first is not None:
                self.errors = errors  # until here frames lacked what they refer to, before the keyframe
                return self._numbered(frames, first[0]), first
            if key == 0:
                break
            key -= 1
        self._seeks = False
        self._open()
        return self._numbered(self._decoded(may_skip=True), 0), None

    def _landed(self, frames: Iterator[av.VideoFrame], index: int) -> tuple[int, av.VideoFrame] | None:
        """The first key frame after a seek, unless it is beyond frame `index`."""
        for frame in itertools.islice(frames, LANDING_FRAMES):
            if frame.key_frame:
                number = self._number(frame, 0)
                return (number, frame) if number is not None and number <= index else None
        return None


def _nearest(
    before: tuple[int, av.VideoFrame] | None, after: tuple[int, av.VideoFrame], wanted: int
) -> tuple[int, av.VideoFrame]:
    if before is None or abs(after[0] - wanted) < abs(before[0] - wanted):
        return after
    return before


class FrameConverter:
    """Decoded frames to RGB of one size, as players show them.

    `height`, `width` are those of the first frame as displayed: with its pixels stretched to squares
    (`square_pixels`), then turned or mirrored by its display matrix (the phone's "this way up"). A stream
    that changes its size half-way is scaled to the first one; alpha is dropped, high bit depths are
    reduced to 8.
    """

    def __init__(self, first: av.VideoFrame, pixel_aspect: float = 1.0):
        """`pixel_aspect`: width of a pixel over its height; 1 leaves the pixels as stored."""
        self._coded = (first.width, first.height)
        self._stored = (max(1, round(first.width * pixel_aspect)), first.height)
        self._orientation = orientation(first)
        sides = self._stored[::-1]
        self.height, self.width = sides[::-1] if self._orientation[0] else sides

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if (frame.width, frame.height) == self._coded == self._stored:
            pixels = frame.to_ndarray(format="rgb24")
        else:
            width, height = self._stored
            kind = "BICUBIC" if self._stored != self._coded else None
            pixels = frame.reformat(
                width=width, height=height, format="rgb24", interpolation=kind
            ).to_ndarray()
        transposed, up_down, left_right = self._orientation
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """The rotation that brings a frame upright.

    Args:
      frame: a decoded frame; its display matrix says where the stored columns and rows go.

    Returns:
      Whether to transpose, then to flip up and down, then left and right. Angles between quarter turns
      count as the nearest of the eight orientations.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    matrix = np.frombuffer(bytes(data), np.int32)
    if len(matrix) != 9:
        return False, False, False
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))  # x' = a x + c y, y' = b x + d y
    if abs(b * c) > abs(a * d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def first_frame(index: VideoIndex) -> av.VideoFrame:
    """The first frame that can be decoded.

    Packets at the start that refer to what lies before the file's start (a recording that begins within
    a group of pictures) give no picture: the index then loses them, as a player never shows them.

    Args:
      index: of the file; its leading pictures may be dropped.

    Returns:
      The frame.

    Raises:
      TempoError: there is none.
    """
    every = np.arange(1)
    if index.pts is None:
        with contextlib.closing(FrameReader(index, every, every + 1)) as reader:
            for frame in reader.every_frame():
                return frame
    else:
        reader = FrameReader(index, np.arange(min(index.total_frames, 1)), every + 1)
        with contextlib.closing(reader):
            reader._open()
            for number, frame in reader._numbered(reader._decoded(may_skip=False), 0):
                key = int(index.keyframes[0]) if len(index.keyframes) else 0
                if index.cut_into and 0 < number <= key:
                    index.drop_leading(number)
                return frame
    raise TempoError(
        declared.refusal(index.path)
        or f"{index.path} has no frame that can be decoded: it is damaged; get a complete copy."
    )
