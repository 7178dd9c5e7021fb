"""The fingerprint of a checkpoint, which is independent of its location."""

import hashlib
from pathlib import Path
from typing import Any

from tempo_jax import checkpoint
from tempo_jax.utils import paths

ENDS = 1 << 20  # bytes at either end of a file that are hashed: large arrays are not read completely


def fingerprint(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Computes the fingerprint of model.json, arrays and tokenizer.

    It covers the name, the size, and the first and last MiB of every file.

    Args:
      folder: The checkpoint.
      kind: Kind that the model must have, a name in models.config.KINDS; None: any.

    Returns:
      {"fingerprint": 16 hex digits, "origin": the origin in model.json}.

    Raises:
      TempoError: The folder is no native checkpoint, or one of another kind.
    """
    folder = paths.path("the checkpoint", folder)
    origin = checkpoint.read_model_json(folder, kind=kind).origin
    digest = hashlib.sha256()
    for name, size in paths.files(folder).items():
        if name != "model.json" and not name.startswith(("params/", "tokenizer/")):
            continue
        if name.endswith("/commit_success.txt"):  # says where it was written, which does not count
            continue
        digest.update(f"{name}\0{size}\0".encode())
        with (folder / name).open("rb") as data:
            digest.update(data.read(ENDS))
            if size > ENDS:
                data.seek(max(ENDS, size - ENDS))
                digest.update(data.read(ENDS))
    return {"fingerprint": digest.hexdigest()[:16], "origin": origin}
