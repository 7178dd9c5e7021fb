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
from tempo_jax.video.index import VideoIndex, open_container, packets

# Decoding this many frames more is cheaper than a seek, which throws away those under way in the
# decoder's threads.
SEEK_MARGIN = 16


class FrameReader:
    """One pass over a file.

    `errors` counts packets and frames that could not be decoded, `stand_ins` the wanted frames that
    were replaced by the nearest good one.
    """

    def __init__(self, index: VideoIndex, wanted: np.ndarray, repeats: np.ndarray):
        """`wanted`: ascending, distinct frame numbers, int64 [n]; `repeats`: how often to give each."""
        self._index = index
        self._wanted = wanted
        self._repeats = repeats
        pts = index.pts
        self._wanted_pts = set() if pts is None else {int(x) for x in pts[wanted]}
        self._container: av.container.InputContainer | None = None
        self.errors = 0
        self.stand_ins = 0

    def pixels(self, convert: Callable[[av.VideoFrame], np.ndarray]) -> Iterator[np.ndarray]:
        """RGB of every wanted frame, repeated as asked; always exactly as many as were asked for.

        Raises TempoError if nothing can be decoded any more.
        """
        last, given = None, 0
        with contextlib.closing(iter(self)) as frames:
            for frame, exact in frames:
                self.stand_ins += not exact
                last = convert(frame)
                yield from itertools.repeat(last, self._repeats[given])
                given += 1
        if last is None:
            raise TempoError(
                f"{self._index.path} could be opened but no longer be decoded: was it changed meanwhile?"
            )
        self.stand_ins += len(self._wanted) - given
        yield from itertools.repeat(last, self._repeats[given:].sum())

    def warnings(self) -> list[str]:
        """What went wrong in the pass so far, a sentence or none."""
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
        if self._container is not None:
            self._container.close()
            self._container = None

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """(frame, whether it is the very one) for every wanted frame, in order.

        A frame that cannot be decoded is replaced by the nearest one that can. Yields nothing if
        the file has no decodable frame at all. Closes the file at the end or when abandoned.
        """
        try:
            yield from self._by_count() if self._index.pts is None else self._by_time()
        finally:
            self.close()

    def _open(self) -> None:
        self.close()
        self._container = open_container(self._index.path)
        self._stream = self._container.streams[self._index.stream]
        self._stream.thread_type = "AUTO"

    def _decoded(self, may_skip: bool) -> Iterator[av.VideoFrame]:
        """Frames from the current position on.

        Frames nothing else refers to are not decoded unless wanted (`may_skip`): at 2 frames per
        second that spares most B-frames and changes no other frame.
        """
        context = self._stream.codec_context
        skipping = False
        for packet in packets(self._container, self._stream):
            skip = may_skip and packet.pts not in self._wanted_pts
            if skip != skipping:
                context.skip_frame = "NONREF" if skip else "DEFAULT"
                skipping = skip
            yield from self._decode(context, packet)
        yield from self._decode(context, None)

    def _decode(self, context: av.VideoCodecContext, packet: av.Packet | None) -> Iterator[av.VideoFrame]:
        try:
            frames = context.decode(packet)
        except (av.FFmpegError, ValueError, OSError):
            self.errors += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self.errors += 1
            else:
                yield frame

    def _by_count(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """For files without usable times: decode everything and count."""
        self._open()
        frames, number, frame = self._decoded(may_skip=False), -1, None
        for index in self._wanted:
            while number < index and (following := next(frames, None)) is not None:
                number, frame = number + 1, following
            if frame is None:
                return
            yield frame, number == index

    def _by_time(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Frames are known by their pts, so a seek may skip what lies between two wanted ones."""
        pts = self._index.pts
        self._open()
        frames, before, after = self._decoded(may_skip=True), None, None
        for index in self._wanted:
            wanted = int(pts[index])
            position = 0 if after is None else int(np.searchsorted(pts, after.pts))
            if self._keyframe(index) > position + SEEK_MARGIN:
                frames, first = self._seek(int(index))
                # A failed seek has started over, and `before` is then only a stand-in as any other.
                before, after = after, first
            while after is None or after.pts < wanted:
                following = next(frames, None)
                if following is None:
                    break
                if following.pts is not None:
                    before, after = after, following
            if after is None:
                return
            if after.pts == wanted:
                yield after, True
            else:
                yield _nearest(before, after, wanted), False

    def _keyframe(self, index: int) -> int:
        """The last keyframe at or before frame `index`; 0 if there is none."""
        place = int(np.searchsorted(self._index.keyframes, index, side="right"))
        return int(self._index.keyframes[place - 1]) if place else 0

    def _seek(self, index: int) -> tuple[Iterator[av.VideoFrame], av.VideoFrame | None]:
        """Go to the keyframe of frame `index`; the frames from there on and the first of them.

        Some containers land later than asked. Then the keyframe before is tried, then the one
        before that, and at last the file is read from its start, which is always right.
        """
        pts, key = self._index.pts, index
        for _ in range(3):
            key = self._keyframe(key)
            try:
                self._container.seek(int(pts[key]), stream=self._stream, backward=True)
            except (av.FFmpegError, OSError):
                break
            frames = self._decoded(may_skip=True)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= pts[index]:
                return frames, first
            if key == 0:
                break
            key -= 1
        self._open()
        return self._decoded(may_skip=True), None


def _nearest(before: av.VideoFrame | None, after: av.VideoFrame, wanted: int) -> av.VideoFrame:
    if before is None or abs(after.pts - wanted) < abs(before.pts - wanted):
        return after
    return before


class FrameConverter:
    """Decoded frames to upright RGB of one size.

    `height`, `width` are those of the first frame after its rotation mark (the phone's "this way
    up") has been applied, as players do. A stream that changes its size half-way is scaled to the
    first one; alpha is dropped, high bit depths are reduced to 8, pixels are taken as square.
    """

    def __init__(self, first: av.VideoFrame):
        self._coded = (first.width, first.height)
        self._turns = round(first.rotation / 90) % 4
        sides = (first.height, first.width)
        self.height, self.width = sides[::-1] if self._turns % 2 else sides

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [height, width, 3]."""
        if (frame.width, frame.height) == self._coded:
            pixels = frame.to_ndarray(format="rgb24")
        else:
            width, height = self._coded
            pixels = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
        return np.rot90(pixels, self._turns) if self._turns else pixels


def first_frame(index: VideoIndex, wanted: int) -> av.VideoFrame:
    """Frame `wanted`, or the nearest decodable one; TempoError if the file has none."""
    with contextlib.closing(iter(FrameReader(index, np.array([wanted]), np.array([1])))) as frames:
        for frame, _ in frames:
            return frame
    raise TempoError(f"{index.path} has no frame that can be decoded: it is damaged; get a complete copy.")
