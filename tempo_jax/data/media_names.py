"""Suffixes of media files: the table that evaluation and data readers share."""

from pathlib import PurePath

from tempo_jax.video.images import SUFFIXES as _IMAGES

VIDEOS = (
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv"),
    *(".ogv", ".wmv", ".3gp", ".vob", ".gif", ".npy"),
)
IMAGES = tuple(suffix for suffix in _IMAGES if suffix != ".gif")
MEDIA = (*VIDEOS, *IMAGES)  # among files of one name, the first suffix wins


def ending(name: str) -> str:
    """Returns the suffix of a media file in lower case, "" where the name has none."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in MEDIA else ""


def is_video(name: str) -> bool:
    """Returns whether the name is that of a video file."""
    return ending(name) in VIDEOS


def stem(name: str) -> str:
    """Returns the last part of a name without its media suffix; other dots belong to the name."""
    last = PurePath(name).name
    return PurePath(last).stem if ending(last) else last
