"""Where a benchmark's videos are."""

import os
from pathlib import Path

from tempo_jax.errors import TempoError
from tempo_jax.evaluation.benchmarks import Benchmark


class Videos:
    """Names to paths."""

    def __init__(self, benchmark: Benchmark, folder: str | Path, videos: str = ""):
        """`folder`: the benchmark's. `videos`: that of the videos, in it or anywhere; "": the usual ones."""
        root = Path(folder).expanduser()
        if videos and not (root / Path(videos).expanduser()).is_dir():
            raise TempoError(f"There is no folder of videos {root / videos}: check config.data.videos.")
        patterns = (videos,) if videos else benchmark.folders
        self._suffixes = benchmark.suffixes
        self._folders: list[Path] = []
        for pattern in patterns:
            found = sorted(root.glob(pattern)) if "*" in pattern else [root / Path(pattern).expanduser()]
            self._folders += [path for path in found if path.is_dir()]

    def find(self, name: str) -> Path:
        """The path of a video; TempoError where there is none."""
        for folder in self._folders:
            for suffix in self._suffixes:
                path = folder / f"{name}{suffix}"
                if os.path.exists(path):  # Path.exists raises for a name that is too long
                    return path
        looked = ", ".join(map(str, self._folders)) or "no folder"
        raise TempoError(f"There is no video {name} (looked in {looked}).")
