"""Options of decoding that both systems have, validated."""

from typing import Any

from tempo_jax import fields


def check_decode_options(options: Any) -> None:
    """Validates max_new_tokens, temperature, top_p and seed.

    Raises:
      TempoError: One of them is invalid.
    """
    for name in ("max_new_tokens", "temperature", "top_p", "seed"):
        fields.check(name, getattr(options, name))


class DecodeOptions:
    """Base of both systems' `Options`."""

    temperature: float

    @property
    def greedy(self) -> bool:
        """Also true for temperatures so low that float32 logits divided by them would overflow."""
        return self.temperature < 1e-6
