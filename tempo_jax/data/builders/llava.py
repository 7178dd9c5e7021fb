"""TFDS builder of LLaVA-style data."""

import os
from pathlib import Path
from typing import Any

from tempo_jax.data import llava
from tempo_jax.data.builders.base import Preparing
from tempo_jax.data.preparation import Settings
from tempo_jax.errors import TempoError


class Llava(Preparing):
    """LLaVA-style records (tempo_jax.data.llava) with their pictures and videos."""

    def __init__(
        self,
        *,
        source: str | os.PathLike,
        media: str | os.PathLike | None = None,
        settings: Settings | None = None,
        **kwargs: Any,
    ):
        """`source`: a .json or .jsonl file. `media`: the folder its names are relative to (default: its own).

        `kwargs`: those of Preparing and of tfds builders. TempoError where a file or folder is missing.
        """
        source, settings = Path(source), settings or Settings()
        jobs = llava.read(source)
        root = Path(media) if media is not None else source.parent
        if not root.is_dir():
            raise TempoError(f"There is no media folder {root}: give the one that holds images and videos.")
        task = llava.Preparer(root, settings)
        super().__init__(jobs=jobs, task=task, origin={"llava": source.name}, settings=settings, **kwargs)
