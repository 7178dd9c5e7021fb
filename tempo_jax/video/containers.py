"""Opening a media file with FFmpeg: which stream is the picture, its packets, and why a file is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from tempo_jax.errors import TempoError
from tempo_jax.video import declared

MAX_READ_ERRORS = 8  # in a row; some demuxers recover after a damaged stretch, others never do
TS_DISCONT = 0x200  # FFmpeg's AVFMT_TS_DISCONT: a format whose clock may jump
INTRA_ONLY, REORDER = 1, 8  # FFmpeg's AV_CODEC_PROP_*
# Tags that are not UTF-8 do no harm: PyAV before 19 must be told so, later ones have no such option.
_ACCEPTED = av.open.__doc__ or ""
LENIENT_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if "metadata_errors" in _ACCEPTED else {}
_UNSEEN = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


def open_container(path: Path) -> av.container.InputContainer:
    """Opens a media file for reading.

    Args:
      path: an existing file.

    Returns:
      The open container; its tags are decoded leniently, so that one that is not UTF-8 does no harm.

    Raises:
      TempoError: the file is no video, is damaged beyond use or may not be read.
    """
    options = {"protocol_whitelist": "file"}
    try:
        # "file:" keeps names with colons from being taken for protocols, and the whitelist keeps
        # playlists from pulling in anything else.
        name = f"file:{path.absolute()}"
        container = av.open(name, options=options, **LENIENT_TAGS)
        if container.format.name == "image2":  # by its suffix; the caller knows that it is more
            container.close()
            container = av.open(name, format="mjpeg", options=options, **LENIENT_TAGS)
        return container
    except PermissionError as error:
        raise TempoError(f"{path} may not be read: change its permissions.") from error
    except FileNotFoundError as error:
        raise TempoError(f"There is no video {path} any more: check the path.") from error
    except (av.FFmpegError, ValueError, OSError) as error:
        raise TempoError(declared.refusal(path) or unknown(path)) from error


def unknown(path: Path) -> str:
    """The sentence for a file that is neither a video nor an image."""
    return (
        f"{path} cannot be read as a video or an image: give a video file (such as .mp4, .mkv or .webm), "
        ".gif, .npy, an image or a folder of images."
    )


def canonical_codec(stream: av.VideoStream) -> str:
    """FFmpeg's name of a stream's codec, whichever decoder is used ("av1", not "libdav1d")."""
    return stream.codec_context.codec.canonical_name


def video_stream(container: av.container.InputContainer, path: Path) -> tuple[av.VideoStream, list[str]]:
    """Chooses the stream that a player shows: by default disposition, then size, then length.

    Args:
      container: an open file.
      path: its path, for sentences.

    Returns:
      The stream, and a warning that names the others where there are several.

    Raises:
      TempoError: there is no video stream, or none that can be decoded.
    """
    if container.format.name == "tty":  # FFmpeg renders any .txt file as a film of its text
        raise TempoError(f"{path} is a text file: give a video, an image or a folder of images.")
    streams = [s for s in container.streams.video if not s.disposition & _UNSEEN]
    if not streams:
        # A device's main picture may be marked as a cover where there is nothing else.
        what = "has sound but no video" if container.streams.audio else "has no video in it"
        raise TempoError(f"{path} {what}: give a file with a video stream.")
    decodable = [s for s in streams if s.codec_context is not None and s.codec_context.width]
    if not decodable:
        raise TempoError(declared.refusal(path) or _undecodable(streams, path))
    if len(decodable) == 1:
        return decodable[0], []
    ranked = sorted(decodable, key=_rank, reverse=True)
    best, others = (
        ranked[0],
        [s for s in ranked[1:] if s.frames != 1],
    )  # a still beside its sequence is no film
    if not others:
        return best, []
    named = ", ".join(f"{s.index} ({_size(s)})" for s in others[:3])
    return best, [
        f"{path.name} has {len(others) + 1} video streams: the answer is about stream {best.index} "
        f"({_size(best)}), not about {named}."
    ]


def _rank(stream: av.VideoStream) -> tuple:
    context = stream.codec_context
    length = float((stream.duration or 0) * (stream.time_base or 0)) or _tagged_seconds(stream)
    default = bool(stream.disposition & av.stream.Disposition.default)
    return default, context.width * context.height, stream.frames, length, -stream.index


def _tagged_seconds(stream: av.VideoStream) -> float:
    """A stream's end by its tag, which Matroska files have in place of a duration; 0 without one."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def _size(stream: av.VideoStream) -> str:
    return f"{stream.codec_context.width}x{stream.codec_context.height} pixels"


def _undecodable(streams: list[av.VideoStream], path: Path) -> str:
    names = sorted({s.codec_context.name for s in streams if s.codec_context is not None})
    if names:
        return f"{path} does not say how large its pictures are ({', '.join(names)}): get a complete copy."
    return f"{path} uses a video codec that cannot be decoded here: convert it to H.264."


def packets(container: av.container.InputContainer, stream: av.stream.Stream | None) -> Iterator[av.Packet]:
    """Yields the non-empty packets of `stream` (None: of all streams), read on past damaged stretches."""
    failures = 0
    demuxer = container.demux() if stream is None else container.demux(stream)
    while failures < MAX_READ_ERRORS:
        try:
            packet = next(demuxer)
        except StopIteration:
            return
        except (av.FFmpegError, OSError):
            failures += 1
            demuxer = container.demux() if stream is None else container.demux(stream)
            continue
        failures = 0
        if packet.size:
            yield packet
