"""What can be prepared: `Llava`, data sets as they lie on disk, and `Minireel`, made-up videos.

    text = prepare.prepare(lambda: Llava(source="data.jsonl", media="media"), "prepared", workers=8)

`tempo_jax.data.prepare` is the command around them; `tempo_jax.data.records.open_prepared` reads.
"""

from tempo_jax.data.builders.base import Preparing
from tempo_jax.data.builders.llava import Llava
from tempo_jax.data.builders.minireel import Minireel

__all__ = ["Llava", "Minireel", "Preparing"]
