"""`lmms_eval --model tempo_jax`: our models in the published evaluator, through its plug-in entry point.

Lives in lmms-eval's environment, whose packages do not go together with ours, and asks a model in ours
over a pipe:

    pip install lmms-eval && pip install --no-deps .        # in an environment of its own
    python -m lmms_eval --model tempo_jax --tasks lvbench --batch_size 1 \
        --model_args pretrained=checkpoints/tempo-6b,python=.venv/bin/python,budget=8192
"""

import sys
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from tempo_jax.errors import TempoError
from tempo_jax.evaluation.pipe import ModelProcess

# As in the published evaluation (docs/reference/tempo.md#evaluation-protocol).
SETTINGS = {"budget": 8192, "fps": 2.0, "min_frames": 8, "max_frames": 1024, "context_length": 32_768}


def manifest() -> ModelManifest:
    """What the entry point `lmms_eval.models` registers."""
    return ModelManifest(
        model_id="tempo_jax", simple_class_path="tempo_jax.evaluation.lmms_eval_model.TempoJax"
    )


class TempoJax(lmms):
    """Greedy answers about one video, image or folder of frames each."""

    def __init__(
        self,
        pretrained: str,
        python: str = sys.executable,
        batch_size: Any = 1,
        device: Any = None,
        **settings: Any,
    ):
        """`pretrained`: a native checkpoint. `python`: of the environment with jax. `settings`: of serve.

        `batch_size` and `device` come from lmms-eval's command line and mean nothing here.
        """
        super().__init__()
        self.model = ModelProcess(python, {"checkpoint": pretrained, **SETTINGS, **settings})

    def generate_until(self, requests: list) -> list[str]:
        """A reply for each request; empty where there is no video, as published."""
        asked = [self._question(request) for request in requests]
        replies = [""] * len(requests)
        for number in sorted(range(len(asked)), key=lambda i: asked[i][0]):  # of one video side by side
            video, prompt, settings = asked[number]
            reply = self.model.ask(video, prompt, int(settings.get("max_new_tokens", 16)))
            if "error" in reply:
                print(f"tempo_jax: {reply['error']}", file=sys.stderr, flush=True)
            replies[number] = _until(reply.get("text", ""), settings.get("until"))
            self.cache_hook.add_partial("generate_until", (prompt, settings), replies[number])
        return replies

    def _question(self, request: Any) -> tuple[str, str, dict]:
        """(path of the video, prompt, generation settings) of a request."""
        prompt, settings, to_visual, number, task, split = request.args
        visuals = to_visual(self.task_dict[task][split][number])
        path = visuals[0] if visuals else None
        if len(visuals or ()) != 1 or not isinstance(path, str):
            raise TempoError(f"{task}: tempo_jax takes one video or image by its path, not {visuals!r:.80}")
        return path, prompt.replace("<image>", ""), settings

    def loglikelihood(self, requests: list) -> list:
        raise NotImplementedError("tempo_jax generates answers only")

    def generate_until_multi_round(self, requests: list) -> list:
        raise NotImplementedError("tempo_jax answers one question at a time")


def _until(text: str, stops: Any) -> str:
    """The text before the first stop; an empty line is none, as published."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop and stop != "\n\n":
            text = text.split(stop)[0]
    return text
