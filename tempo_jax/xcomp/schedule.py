"""How many tokens of a frame each layer sees, and which: integer tables, made in float64 (xcomp §2.1-2.3).

Layers count from 1 here as in the paper; entry 0 of every table is what enters the LLM. A drop before
layer 1 is a drop like any other.
"""

import dataclasses
import functools
import math

from tempo_jax.errors import TempoError
from tempo_jax.models.config import LPCompConfig

ROUNDINGS = ("round", "ceil")
KEEPS = ("suffix", "uniform", "stride")
SCHEDULES = ("cosine", "steps", "none")

# The variants of the paper's ablation, by name.
VARIANTS = {
    "released": LPCompConfig(),
    "paper": LPCompConfig(rounding="ceil"),
    "uniform": LPCompConfig(keep="uniform"),
    "steps": LPCompConfig(schedule="steps", keep="stride"),
    "none": LPCompConfig(schedule="none"),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Tables of one LLM; all entries are per slot, a run of `tokens[0]` visual tokens ("a frame").

    survivors[l]: places, from 0, of the tokens that layer l sees; the last place is always among them.
    """

    survivors: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def tokens(self) -> tuple[int, ...]:
        """K_0..K_N: tokens that layer l sees."""
        return tuple(map(len, self.survivors))

    @property
    def layers(self) -> int:
        return len(self.survivors) - 1

    def kept(self, layer: int) -> tuple[int, ...] | None:
        """Which of layer - 1's tokens `layer` still sees, from 0; None where it sees them all."""
        before, after = self.survivors[layer - 1], self.survivors[layer]
        return None if before == after else tuple(before.index(place) for place in after)

    def runs(self) -> list[tuple[int, int]]:
        """[start, stop) of layers, from 0, between drops: what may be scanned together."""
        starts = [i for i in range(self.layers) if i == 0 or self.kept(i + 1) is not None]
        return list(zip(starts, [*starts[1:], self.layers], strict=True))


@functools.lru_cache(maxsize=64)
def plan(config: LPCompConfig, layers: int, tokens: int) -> Plan:
    """The plan for an LLM of `layers` layers and slots of `tokens` tokens; TempoError for odd settings."""
    for name, known in (("schedule", SCHEDULES), ("rounding", ROUNDINGS), ("keep", KEEPS)):
        if getattr(config, name) not in known:
            raise TempoError(
                f"compression.{name} is {getattr(config, name)!r}: use one of {', '.join(known)}."
            )
    if (config.schedule == "steps") != (config.keep == "stride"):
        raise TempoError('compression.keep "stride" and compression.schedule "steps" go together: set both.')
    everything = tuple(range(tokens))
    if config.schedule == "none":
        return Plan((everything,) * (layers + 1))
    if config.schedule == "steps":
        return Plan(_strided(config, layers, everything))
    counts = cosine(layers, tokens, config.rounding)
    if config.keep == "suffix":
        return Plan(tuple(everything[tokens - count :] for count in counts))
    return Plan(tuple(_spread(tokens)[count] for count in counts))


def cosine(layers: int, tokens: int, rounding: str = "round") -> list[int]:
    """K_0..K_N of the half cosine from `tokens` to 1, halves rounded up ("round") or everything ("ceil").

    At the middle of 28 layers the value stands on a tie: float32 or rounding to even would miss it.
    """
    half = (tokens - 1) / 2
    if rounding == "ceil":
        values = [half * math.cos(math.pi * i / layers) + (tokens + 1) / 2 for i in range(layers + 1)]
        return [math.ceil(value) for value in values]
    values = [half * (1 + math.cos(math.pi * i / layers)) for i in range(layers + 1)]
    return [1 + math.floor(value + 0.5) for value in values]


@functools.lru_cache(maxsize=16)
def _spread(tokens: int) -> dict[int, tuple[int, ...]]:
    """Count -> that many survivors, spread as evenly as removing one after the other allows.

    Removed is each time the first whose absence brings survivor j of m closest to place tokens*j/m, in
    squares and summed over all but the last survivor. Exact ties are frequent and float64 rounding decides
    them, so the sum is formed as the released code forms it: term by term, from the left.
    """
    found = {tokens: tuple(range(tokens))}
    for count in range(tokens - 1, 0, -1):
        before = found[count + 1]
        candidates = [before[:i] + before[i + 1 :] for i in range(len(before))]
        found[count] = min(candidates, key=lambda left: _unevenness(left, tokens))
    return found


def _unevenness(places: tuple[int, ...], tokens: int) -> float:
    total = 0.0  # not sum(), which newer Pythons compensate
    for j, place in enumerate(places[:-1], 1):
        total += (tokens * j / len(places) - (place + 1)) ** 2
    return total


def _strided(config: LPCompConfig, layers: int, places: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The last of every `stride` survivors stays, after each of `step_layers`."""
    table = [places]
    for layer in range(1, layers + 1):
        if layer - 1 in config.step_layers:
            if len(places) % config.stride:
                raise TempoError(
                    f"compression.stride {config.stride} does not divide the {len(places)} tokens a frame "
                    f"has after layer {layer - 1}: choose another."
                )
            places = places[config.stride - 1 :: config.stride]
        table.append(places)
    return tuple(table)
