"""Limits of requests and of the server. Imports no jax."""

import dataclasses

MIB = 1 << 20
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a server, in bytes, seconds and counts.

    Attributes:
      upload_bytes: size of a file.
      json_bytes: body of a JSON request, without its data: URIs.
      inline_bytes: body of a JSON request with its data: URIs.
      bodies_bytes: all bodies that are being received.
      requests: requests at a time.
      connections: connections at a time.
      video_seconds: duration of a video; checked before it is decoded, as are its sizes.
      frame_pixels: height x width of a video.
      image_pixels: height x width of an image.
      decode_seconds: time of a decoding process, and separately time spent waiting for it.
      decode_bytes: memory of a decoding process beyond that of the interpreter.
      waiting: queued requests.
      openings: videos that are being opened.
      open_videos: cached videos.
      open_bytes: device memory of cached videos.
      batch: questions about one video that are read in a row; twice as many answers are decoded together.
      stored_bytes: disk space of uploads.
    """

    upload_bytes: int = 2 * GIB
    json_bytes: int = 2 * MIB
    inline_bytes: int = 96 * MIB
    bodies_bytes: int = 64 * MIB
    requests: int = 256
    connections: int = 512
    video_seconds: float = 6 * 3600.0
    frame_pixels: int = 4096 * 2304
    image_pixels: int = 64_000_000
    decode_seconds: float = 600.0
    decode_bytes: int = 2 * GIB
    waiting: int = 16
    openings: int = 2
    open_videos: int = 4
    open_bytes: int = 4 * GIB
    batch: int = 4
    stored_bytes: int = 8 * GIB

    @property
    def answers(self) -> int:
        """Concurrent questions, of any videos."""
        return 2 * self.batch
