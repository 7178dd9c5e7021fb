"""The training tasks, one file each: batch, sample size, collate function, loss, FLOPs and shapes.

A task is added by a file like its neighbors and a row here.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.data import loader
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import align, compressor, llm, tempo, xcomp
from tempo_jax.tasks.base import Task

TASKS: dict[str, Task] = {row.TASK.name: row.TASK for row in (tempo, align, compressor, llm, xcomp)}


class TrainLoader(loader.TrainLoader):
    """The training batches of the task that a config names."""

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, model_config: Any, shards: Sequence[int]):
        super().__init__(config, tokenizer, model_config, shards, TASKS)
