"""The random option of an unparseable response, as LongVideoBench scores it."""

import random

from tempo_jax.evaluation.annotations import Question


def random_option(question: Question, seed: int) -> str:
    """Returns one of the offered letters, which depends on the question and the seed only.

    The reference evaluator draws from one global generator instead.
    """
    return random.Random(f"{seed}/{question.id}").choice(question.letters)
