"""Long-video question answering on TPUs: Tempo in JAX.

    import tempo_jax
    tempo = tempo_jax.load("checkpoints/tempo-6b")
    answer = tempo.ask("video.mp4", "What happens?")

Imports are lazy: `import tempo_jax` alone loads neither jax nor transformers.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULE_OF = {
    "load": "tempo_jax.tempo.engine",
    "Tempo": "tempo_jax.tempo.engine",
    "Clip": "tempo_jax.tempo.clip",
    "Answer": "tempo_jax.runtime.results",
    "Inspection": "tempo_jax.runtime.results",
    "Segment": "tempo_jax.runtime.results",
    "TempoError": "tempo_jax.errors",
}
_PUBLIC_MODULES = ("ata", "video", "prompts", "sharding", "checkpoint")

__all__ = ["Answer", "Clip", "Inspection", "Segment", "Tempo", "TempoError", "__version__", "load"]

if TYPE_CHECKING:
    from tempo_jax.errors import TempoError
    from tempo_jax.runtime.results import Answer, Inspection, Segment
    from tempo_jax.tempo.clip import Clip
    from tempo_jax.tempo.engine import Tempo, load


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"tempo_jax.{name}")
    raise AttributeError(f"module 'tempo_jax' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_MODULE_OF, *_PUBLIC_MODULES])
