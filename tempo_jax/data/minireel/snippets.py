"""One glimpse and its caption: the first and cheapest lesson of a small VLM, to learn to see at all.

A glimpse is a single temporal slice of two frames, a quarter of a segment, and so costs about a quarter.
"""

import dataclasses

import numpy as np

from tempo_jax import prompts
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.per_reel import PerReel
from tempo_jax.data.minireel.reel import Reel
from tempo_jax.data.minireel.segments import caption_of
from tempo_jax.data.minireel.world import Spec
from tempo_jax.data.samples import Sample

FRAMES = 2
_EVENTFUL = 0.6  # share of the glimpses that show an event


@dataclasses.dataclass(frozen=True)
class SnippetSource(PerReel):
    """Samples for task "svlm"; the same index, the same sample. size: of the frames, pixels.

    picture: of a glimpse the first frame alone, as an image, for task "xcomp".
    """

    size: int = 64
    picture: bool = False

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 4)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        first = _first_frame(spec, rng)
        frames = Reel(spec, ()).frames([first, first + 1][: 1 if self.picture else FRAMES])
        shown = "<image>\n" if self.picture else ""
        conversation = (
            {"from": "human", "value": shown + prompts.DEFAULT_QUESTION},
            {
                "from": "gpt",
                "value": caption_of(spec, (first + 0.5) / spec.fps, spec.event_at(first / spec.fps)),
            },
        )
        return Sample(frames, None if self.picture else spec.fps, conversation, first / spec.fps)


def _first_frame(spec: Spec, rng: np.random.Generator) -> int:
    """Of two frames on the same side of every cut: both show one scene, and one event or none."""
    while True:
        if rng.random() < _EVENTFUL:
            event = spec.events[rng.integers(len(spec.events))]
            first = int(rng.integers(int(event.start * spec.fps), int(event.end * spec.fps) + 1))
        else:
            first = int(rng.integers(spec.num_frames - 1))
        now, then = first / spec.fps, (first + 1) / spec.fps
        same = spec.event_at(now) is spec.event_at(then) and spec.scene_at(now) is spec.scene_at(then)
        if first + 1 < spec.num_frames and same:
            return first
