"""A random option for a reply without a letter, as LongVideoBench scores it."""

import random

from tempo_jax.evaluation.annotations import Question


def random_option(question: Question, seed: int) -> str:
    """One of the letters offered; of the question and the seed alone, so that no order changes it.

    The published evaluator draws from one global generator instead.
    """
    return random.Random(f"{seed}/{question.id}").choice(question.letters)
