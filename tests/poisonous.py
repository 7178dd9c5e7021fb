"""A task of preparing whose jobs may end the process: picklable, for processes of their own."""

import dataclasses
import os
import signal

from tempo_jax.data.preparation import Settings
from tempo_jax.data.records import to_example


@dataclasses.dataclass(frozen=True)
class Task:
    """Number -> a text example; those of `poison` kill the process, that of `once` the first time."""

    settings: Settings
    poison: tuple[int, ...] = ()
    once: int = -1
    mark: str = ""

    def __call__(self, number: int) -> list:
        if number in self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.once and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        turns = [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": "A number."}]
        return [to_example(f"job-{number}", "text", turns, self.settings.dummy())]
