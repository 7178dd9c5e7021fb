"""Which model it was: a fingerprint of a checkpoint that does not depend on where it lies."""

import hashlib
from pathlib import Path
from typing import Any

from tempo_jax import checkpoint
from tempo_jax.utils import paths

ENDS = 1 << 20  # bytes at either end of a file that are looked at: a 6B's arrays are never read whole


def identify(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """{"fingerprint": 16 hex digits, "origin": what model.json says}; of model.json, arrays, tokenizer.

    Two checkpoints of other weights differ: every array file's name and size and its first and last MiB
    count.

    Args:
      folder: the checkpoint.
      kind: of model that it must be, a name in models.config.KINDS; None: any.

    Returns:
      The fingerprint and the origin.

    Raises:
      TempoError: for a folder that is no native checkpoint, or one of another kind.
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
