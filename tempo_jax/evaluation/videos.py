"""Where a benchmark's videos are: by any of their names, with any ending of media, in any folder below."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tempo_jax.data import media_names
from tempo_jax.errors import TempoError
from tempo_jax.evaluation.benchmarks import Benchmark

MAX_ENTRIES_PROBED = 32  # entries of a folder that tell whether it is one of frames


class Videos:
    """Names to paths. A folder is listed once."""

    def __init__(self, benchmark: Benchmark, folder: str | Path, videos: str = ""):
        """`folder`: the benchmark's. `videos`: that of the videos, in it or anywhere; "": the usual ones."""
        root = Path(folder).expanduser()
        if videos and not (root / Path(videos).expanduser()).is_dir():
            raise TempoError(f"There is no folder of videos {root / videos}: check config.data.videos.")
        names = (videos,) if videos else benchmark.folders
        # What is looked through where a video is in none of the usual folders.
        self.root = root / Path(videos).expanduser() if videos else root
        self._folders = [root / Path(name).expanduser() for name in names]
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._below: dict[str, list[Path]] | None = None

    def find(self, name: str, *others: str) -> Path:
        """The path of a video; TempoError where there is none, or several that it may be.

        Args:
          name: as annotated: with an ending or without, in a folder or not.
          *others: what it may be called instead.
        """
        names = [PurePosixPath(text.replace("\\", "/")) for text in (name, *others)]
        names.sort(key=lambda path: len(path.parts) < 2)  # those that say the folder first
        for wanted in names:
            for folder in self._folders:
                if found := self._in(folder / wanted.parent, wanted.name):
                    return found
        for wanted in names:
            if found := self._anywhere(wanted):
                return found
        raise TempoError(f"There is no video {name} (looked in {self.root} and the folders below it).")

    def _in(self, folder: Path, name: str) -> Path | None:
        """The file or folder of frames of that name; of several endings the first of the table."""
        entries = self._listing(folder).get(media_names.stem(name), [])
        fitting = [entry for entry in entries if entry == name] or _by_ending(entries)
        found = (folder / entry for entry in fitting)
        return next((path for path in found if not path.is_dir() or _has_images(path)), None)

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Stem -> the names in a folder that have it."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            try:
                for entry in os.listdir(folder):
                    names.setdefault(media_names.stem(entry), []).append(entry)
            except (OSError, ValueError):  # no folder, or no name that a folder can have
                names = {}
            self._listings[folder] = names
        return self._listings[folder]

    def _anywhere(self, wanted: PurePosixPath) -> Path | None:
        if self._below is None:
            self._below = {}
            for path in _media_below(self.root):
                self._below.setdefault(media_names.stem(path.name), []).append(path)
        found = self._below.get(media_names.stem(wanted.name), [])
        if len(found) > 1:  # those that lie in the annotated folder
            parts = wanted.parent.parts
            found = [path for path in found if path.parent.parts[-len(parts) :] == parts] or found
        if len({path.parent for path in found}) > 1:
            raise TempoError(
                f"The video {wanted} may be {found[0]} or {found[1]}: name its folder as config.data.videos, "
                "or keep one of them."
            )
        return self._in(found[0].parent, wanted.name) if found else None


def _by_ending(entries: Sequence[str]) -> list[str]:
    """Those that end like videos, in the order of the table, then those without an ending: folders."""
    order = (*media_names.VIDEOS, "")
    ending = media_names.ending
    fitting = [entry for entry in sorted(entries) if ending(entry) in order]
    return sorted(fitting, key=lambda entry: order.index(ending(entry)))


def _media_below(root: Path) -> Iterator[Path]:
    """Video files and folders of frames below a folder; what lies in the latter is no video of its own."""
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
    """Whether a folder is one of frames, by its first few entries: there may be thousands."""
    try:
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            names = [entry.name for entry in itertools.islice(shown, MAX_ENTRIES_PROBED)]
    except OSError:
        return False
    endings = {os.path.splitext(name)[1].lower() for name in names}
    return bool(endings & set(media_names.IMAGES)) and not endings & set(media_names.VIDEOS)
