"""What names of media files end in: the one table that evaluation and data readers go by."""

from pathlib import PurePath

from tempo_jax.video.images import SUFFIXES as _IMAGES

VIDEOS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv"),
    *(".ogv", ".wmv", ".3gp", ".vob", ".gif", ".npy"),
)
IMAGES = tuple(suffix for suffix in _IMAGES if suffix != ".gif")
MEDIA = (*VIDEOS, *IMAGES)  # of one name, the first is taken


def ending(name: str) -> str:
    """That of a media file in lower case, "" where the name has none."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in MEDIA else ""


def is_video(name: str) -> bool:
    """Whether the name is that of a video file."""
    return ending(name) in VIDEOS


def stem(name: str) -> str:
    """The last part of a name without the ending of a media file; other dots belong to the name."""
    last = PurePath(name).name
    return PurePath(last).stem if ending(last) else last
