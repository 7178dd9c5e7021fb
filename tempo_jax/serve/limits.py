"""Bounds on what one request may cost, and on what the server holds. No jax."""

import dataclasses

MIB = 1 << 20
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """All of a server's bounds; bytes, seconds and counts.

    Of a request: json_bytes (data: URIs not counted) and inline_bytes (counted); of all that are being read:
    bodies_bytes; requests and connections at a time. Of a file, checked before anything of it is decoded:
    upload_bytes, video_seconds, frame_pixels (height x width of a video) and image_pixels. Of the process
    that decodes it: decode_seconds, of waiting for it and of its own computing alike, and decode_bytes of
    memory beyond what the interpreter takes. Of the server: waiting requests, openings under way at a time,
    open_videos and their open_bytes on the device, batch questions answered together, stored_bytes of
    uploads kept on disk.
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
        """Questions being answered at a time: one batch, and as many that need not wait for its end."""
        return 2 * self.batch
