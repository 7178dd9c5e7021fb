"""What can be trained, one file a task: its batch, sizes, collating, loss, FLOPs and shapes.

A task is added by a file like its neighbors and a row here.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.data import loader
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import align, llm, svlm, tempo, xcomp
from tempo_jax.tasks.base import Task

TASKS: dict[str, Task] = {row.TASK.name: row.TASK for row in (tempo, align, svlm, llm, xcomp)}


class Batches(loader.Batches):
    """Batches of the task that a training config names."""

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, model_config: Any, shards: Sequence[int]):
        super().__init__(config, tokenizer, model_config, shards, TASKS)
