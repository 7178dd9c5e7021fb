"""Client of `serve`: a model in a separate process and Python environment. Standard library only."""

import contextlib
import json
import subprocess
from typing import Any

from tempo_jax.errors import TempoError


class ModelProcess:
    """A model in another process; `python` is the interpreter of an environment with tempo_jax."""

    def __init__(self, python: str, options: dict[str, Any]):
        """Starts the process with the options of `serve`; raises TempoError where it does not start."""
        command = [python, "-m", "tempo_jax.evaluation.serve", json.dumps(options)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
        except OSError as error:
            raise TempoError(f"{python} cannot be started ({error.strerror}): give a python.") from error
        ready = self._receive()
        if "error" in ready:
            self.close()
            raise TempoError(ready["error"])

    def ask(self, video: str, prompt: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns {"text", "usage", "warnings"}, or {"error": message} where there is no answer."""
        question = {"video": video, "prompt": prompt, "max_new_tokens": max_new_tokens}
        with contextlib.suppress(OSError):  # where the process has died, _receive reports it
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise TempoError(f"the process of the model ended with status {status}: see its output above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
