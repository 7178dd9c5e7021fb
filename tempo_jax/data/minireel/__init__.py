"""minireel: a procedural video world with ground truth, for training small models and testing any.

    from tempo_jax.data import minireel
    reel = minireel.make("test", 0, seconds=512)
    reel.questions[0].prompt, reel.questions[0].answer_letter
    frames = reel.frames(range(0, reel.spec.num_frames, 4))     # uint8 [n, size, size, 3]
    reel.write("reel.mp4")
    python -m tempo_jax.data.minireel OUT --split test --count 10 --seconds 120

A video is a sequence of scenes, each in a place, with moving shapes; one lead is on screen most of the time.
Short events happen: a shape flashes up, a card with a letter is shown, the lead turns another colour.
Questions (needle, when, order, count, global) have one correct answer and three distractors that do not give
it away. Everything is a function of split, index and options.
"""

from tempo_jax.data.minireel.draw import render
from tempo_jax.data.minireel.questions import KINDS, Question, option_of
from tempo_jax.data.minireel.reel import Reel, make, records, relevance, segment_times
from tempo_jax.data.minireel.texts import corpus, vocabulary
from tempo_jax.data.minireel.world import SPLITS, Spec

__all__ = [
    "KINDS", "SPLITS", "Question", "Reel", "Spec", "corpus", "make", "option_of", "records", "relevance",
    "render", "segment_times", "vocabulary",
]  # fmt: skip
