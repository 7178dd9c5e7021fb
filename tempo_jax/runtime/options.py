"""What may be asked of one answer of either system, checked: how long it gets, and how tokens are drawn."""

from typing import Any

from tempo_jax import fields


def check_answer(options: Any) -> None:
    """TempoError unless the fields that both systems' `Options` have make sense.

    Those are max_new_tokens, temperature, top_p and seed.
    """
    for name in ("max_new_tokens", "temperature", "top_p", "seed"):
        fields.check(name, getattr(options, name))


class Greedy:
    """What `Options` of both systems know of themselves."""

    temperature: float

    @property
    def greedy(self) -> bool:
        """Also for temperatures so low that float32 logits divided by them would overflow."""
        return self.temperature < 1e-6
