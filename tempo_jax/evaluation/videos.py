"""Finds a benchmark's videos by any of their names, with any media suffix, in any folder below."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tempo_jax.data import media_names
from tempo_jax.errors import TempoError
from tempo_jax.evaluation.benchmarks import Benchmark

MAX_ENTRIES_PROBED = 32  # entries of a folder that decide whether it holds frames


class Videos:
    """Maps names to paths; each folder is listed once."""

    def __init__(self, benchmark: Benchmark, folder: str | Path, videos: str = ""):
        """`folder` is the benchmark's; `videos` that of its videos, "" for the usual ones."""
        root = Path(folder).expanduser()
        if videos and not (root / Path(videos).expanduser()).is_dir():
            raise TempoError(f"There is no folder of videos {root / videos}: check config.data.videos.")
        names = (videos,) if videos else benchmark.folders
        # The folder to search where a video is in none of the usual folders.
        self.root = root / Path(videos).expanduser() if videos else root
        self._folders = [root / Path(name).expanduser() for name in names]
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._below: dict[str, list[Path]] | None = None

    def find(self, name: str, *others: str) -> Path:
        """Returns the path of a video; raises TempoError where there is none, or several candidates.

        Args:
          name: The annotated name, with or without suffix and folder.
          *others: Alternative names.
        """
        names = [PurePosixPath(text.replace("\\", "/")) for text in (name, *others)]
        names.sort(key=lambda path: len(path.parts) < 2)  # names with a folder first
        for wanted in names:
            for folder in self._folders:
                if found := self._in(folder / wanted.parent, wanted.name):
                    return found
        for wanted in names:
            if found := self._anywhere(wanted):
                return found
        raise TempoError(f"There is no video {name} (looked in {self.root} and the folders below it).")

    def _in(self, folder: Path, name: str) -> Path | None:
        """Returns the file or folder of frames of that name; among suffixes, the first of the table."""
        entries = self._listing(folder).get(media_names.stem(name), [])
        fitting = [entry for entry in entries if entry == name] or _by_ending(entries)
        paths = (folder / entry for entry in fitting)
        return next((path for path in paths if not path.is_dir() or _has_images(path)), None)

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Returns {stem: names in the folder with it}."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            try:
                for entry in os.listdir(folder):
                    names.setdefault(media_names.stem(entry), []).append(entry)
            except (OSError, ValueError):  # no folder, or an invalid name
                names = {}
            self._listings[folder] = names
        return self._listings[folder]

    def _anywhere(self, wanted: PurePosixPath) -> Path | None:
        if self._below is None:
            self._below = {}
            for path in _media_below(self.root):
                self._below.setdefault(media_names.stem(path.name), []).append(path)
        candidates = self._below.get(media_names.stem(wanted.name), [])
        if len(candidates) > 1:  # prefer the annotated folder
            parts = wanted.parent.parts
            candidates = [
                path for path in candidates if path.parent.parts[-len(parts) :] == parts
            ] or candidates
        if len({path.parent for path in candidates}) > 1:
            raise TempoError(
                f"The video {wanted} may be {candidates[0]} or {candidates[1]}: name its folder as "
                "config.data.videos, or keep one of them."
            )
        return self._in(candidates[0].parent, wanted.name) if candidates else None


def _by_ending(entries: Sequence[str]) -> list[str]:
    """Returns names with video suffixes, in the order of the table, then those without suffix (folders)."""
    order = (*media_names.VIDEOS, "")
    ending = media_names.ending
    fitting = [entry for entry in sorted(entries) if ending(entry) in order]
    return sorted(fitting, key=lambda entry: order.index(ending(entry)))


def _media_below(root: Path) -> Iterator[Path]:
    """Yields video files and folders of frames below a folder, but no files of the latter."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        path = Path(entry.path)
                        if _has_images(path):
                            yield path
                        else:
                            folders.append(path)
                    elif media_names.is_video(entry.name):
                        yield Path(entry.path)
        except OSError:
            continue


def _has_images(folder: Path) -> bool:
    """Returns whether a folder holds frames, by its first few entries, since there may be thousands."""
    try:
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            names = [entry.name for entry in itertools.islice(shown, MAX_ENTRIES_PROBED)]
    except OSError:
        return False
    endings = {os.path.splitext(name)[1].lower() for name in names}
    return bool(endings & set(media_names.IMAGES)) and not endings & set(media_names.VIDEOS)
