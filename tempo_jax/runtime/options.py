"""Options of decoding that both systems have, validated."""

from numbers import Real
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError


def check_decode_options(options: Any) -> None:
    """Validates max_new_tokens, temperature, top_p and seed.

    Raises:
      TempoError: One of them is invalid.
    """
    check_integer("max_new_tokens", options.max_new_tokens, minimum=1)
    if not isinstance(options.temperature, Real) or not 0 <= options.temperature <= 1e6:
        raise TempoError(f"temperature is {options.temperature!r}, but it must be from 0 (greedy) to 1e6.")
    if not isinstance(options.top_p, Real) or not 0 < options.top_p <= 1:
        raise TempoError(f"top_p is {options.top_p!r}, but it must be above 0 and at most 1.")
    if not isinstance(options.seed, int | np.integer) or not 0 <= options.seed < 2**63:
        raise TempoError(f"seed is {options.seed!r}, but it must be a whole number from 0 to 2**63 - 1.")


def check_integer(name: str, value: Any, *, minimum: int, below: float = float("inf")) -> None:
    """Validates that `value` is an integer of at least `minimum` and below `below`.

    Raises:
      TempoError: It is not.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not minimum <= value < below:
        raise TempoError(f"{name} is {value!r}, but it must be a whole number of at least {minimum}.")


class DecodeOptions:
    """Base of both systems' `Options`."""

    temperature: float

    @property
    def greedy(self) -> bool:
        """Also true for temperatures so low that float32 logits divided by them would overflow."""
        return self.temperature < 1e-6
