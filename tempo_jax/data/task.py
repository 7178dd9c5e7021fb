"""What the data pipeline knows of a task; `tasks.base.Task` has it all."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.samples import Sample
from tempo_jax.prompts import Tokenizer


class Task(Protocol):
    """How samples become batches. Instances can be pickled: worker processes get them.

    clips_of: of a pool, by a video's prepared frames; None where all batches have one length.
    """

    name: str
    kinds: tuple[str, ...]
    batch: type
    clips_of: Callable[[int, Any], int] | None

    def sample_size(self, sample: Sample, tokenizer: Tokenizer, config: Any) -> Need:
        """What the sample takes of a batch."""

    def collate(self, samples: Sequence[Sample], tokenizer: Tokenizer, config: Any, shape: Shape) -> Any:
        """One batch; raises samples.TooLong when they do not fit `shape`."""
