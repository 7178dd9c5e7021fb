"""The part of the Task protocol that the data pipeline uses; `tasks.base.Task` is complete."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.samples import Sample
from tempo_jax.prompts import Tokenizer


class Task(Protocol):
    """How samples become batches; instances are pickled for worker processes.

    Attributes:
      name: Its name in `config.task`.
      kinds: Kinds of prepared samples that it trains on.
      batch: The NamedTuple of a batch.
      clips_of: Number of clips of a video by its prepared frames; None without length buckets.
    """

    name: str
    kinds: tuple[str, ...]
    batch: type
    clips_of: Callable[[int, Any], int] | None

    def sample_size(self, sample: Sample, tokenizer: Tokenizer, config: Any) -> SampleSize:
        """Returns what the sample occupies of a batch."""

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, config: Any, shape: BatchShape) -> Any:
        """Makes one batch; raises samples.SampleTooLong when the samples do not fit `shape`."""
