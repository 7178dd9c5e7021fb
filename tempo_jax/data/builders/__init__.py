"""TFDS builders of prepared data sets: `Llava` and `Minireel`, in array_record, without TensorFlow.

    builder = Llava(source="data.jsonl", media="media", data_dir="prepared", workers=8)
    builder.download_and_prepare()
    builder.as_data_source("train")[0], builder.skipped

`tempo_jax.data.prepare` is the command around them; `tempo_jax.data.records.open_prepared` reads.
"""

from tempo_jax.data.builders.base import PreparedBuilder
from tempo_jax.data.builders.llava import Llava
from tempo_jax.data.builders.minireel import Minireel

__all__ = ["Llava", "Minireel", "PreparedBuilder"]
