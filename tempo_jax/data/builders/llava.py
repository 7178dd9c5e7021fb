"""Builder of data sets as they lie on disk."""

import os
from pathlib import Path
from typing import Any

from tempo_jax.data import examples, readers
from tempo_jax.data.builders.base import Preparing
from tempo_jax.data.preparation import Settings


class Llava(Preparing):
    """Records of any format (tempo_jax.data.readers) with their pictures and videos."""

    def __init__(
        self,
        *,
        source: str | os.PathLike,
        media: str | os.PathLike | None = None,
        settings: Settings | None = None,
        form: str = readers.AUTO,
        **kwargs: Any,
    ):
        """`source`: a file or folder of readers.read, in the format `form`.

        `media`: the folder its names are relative to (default: its own).
        `kwargs`: those of Preparing. TempoError where a file or folder is missing.
        """
        source, settings = Path(source), settings or Settings()
        data = readers.read(source, media, form)
        task = examples.Preparer(data.sources, settings)
        origin = {"source": source.name, "format": form}
        super().__init__(jobs=data.entries, task=task, origin=origin, settings=settings, **kwargs)
