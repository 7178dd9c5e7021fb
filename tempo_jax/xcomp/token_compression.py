"""LP-Comp: visual tokens are deleted between the layers of the LLM (xcomp §2).

How many tokens of a frame each layer sees, and which, is a `Plan`: integer tables that know no content,
made in float64. Layers count from 1 in them as in the paper; entry 0 is what enters the LLM, and a drop
before layer 1 is a drop like any other.

A row is [text before | frames x 16 visual tokens | text after | padding]. Between two layers the survivors
move together; positions are counted anew in every layer, so the positions of a layer are 0, 1, 2, …, and
its keys and values are those of exactly the tokens it saw. Everything is a gather with indices from the
lengths of a row: rows of a batch may differ, shapes do not.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.errors import TempoError
from tempo_jax.models.config import LPCompConfig
from tempo_jax.models.decoder import KV, Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import get_layer, scan_layers

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
class DropSchedule:
    """Tables of one LLM; all entries are per slot, a run of `tokens[0]` visual tokens ("a frame").

    survivors[l]: places, from 0, of the tokens that layer l sees; the last place is always among them.
    """

    kept_indices: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def tokens(self) -> tuple[int, ...]:
        """K_0..K_N: tokens that layer l sees."""
        return tuple(map(len, self.kept_indices))

    @property
    def layers(self) -> int:
        return len(self.kept_indices) - 1

    def newly_kept(self, layer: int) -> tuple[int, ...] | None:
        """Which of layer - 1's tokens `layer` still sees, from 0; None where it sees them all."""
        before, after = self.kept_indices[layer - 1], self.kept_indices[layer]
        return None if before == after else tuple(before.index(place) for place in after)

    def constant_runs(self) -> list[tuple[int, int]]:
        """[start, stop) of layers, from 0, between drops: what may be scanned together."""
        starts = [i for i in range(self.layers) if i == 0 or self.newly_kept(i + 1) is not None]
        return list(zip(starts, [*starts[1:], self.layers], strict=True))


@functools.lru_cache(maxsize=64)
def make_schedule(config: LPCompConfig, layers: int, tokens: int) -> DropSchedule:
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
        return DropSchedule((everything,) * (layers + 1))
    if config.schedule == "steps":
        return DropSchedule(_strided_indices(config, layers, everything))
    counts = cosine_counts(layers, tokens, config.rounding)
    if config.keep == "suffix":
        return DropSchedule(tuple(everything[tokens - count :] for count in counts))
    return DropSchedule(tuple(_uniform_indices(tokens)[count] for count in counts))


def cosine_counts(layers: int, tokens: int, rounding: str = "round") -> list[int]:
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
def _uniform_indices(tokens: int) -> dict[int, tuple[int, ...]]:
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


def _strided_indices(
    config: LPCompConfig, layers: int, places: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The last of every `stride` survivors stays, after each of `step_layers`."""
    table = [places]
    for number in range(1, layers + 1):
        if number - 1 in config.step_layers:
            if len(places) % config.stride:
                raise TempoError(
                    f"compression.stride {config.stride} does not divide the {len(places)} tokens a frame "
                    f"has after layer {number - 1}: choose another."
                )
            places = places[config.stride - 1 :: config.stride]
        table.append(places)
    return tuple(table)


class RowLengths(NamedTuple):
    """What stands where in B rows, int32 [B] each."""

    prefix_B: jax.Array  # text tokens before the video
    frames_B: jax.Array  # slots of visual tokens
    suffix_B: jax.Array  # text tokens after it

    def lengths(self, plan: DropSchedule) -> jax.Array:
        """Real tokens that each layer sees, int32 [layers, B]; also where a new token stands."""
        return jnp.stack([self.prefix_B + self.suffix_B + self.frames_B * k for k in plan.tokens[1:]])


class RowCapacity(NamedTuple):
    """The static shape of a batch: no row has more text tokens or frames."""

    text: int
    frames: int

    def length(self, tokens: int) -> int:
        """Places of a row where a frame has `tokens`."""
        return self.text + self.frames * tokens


def token_indices(rows: RowLengths, room: RowCapacity, tokens: int) -> tuple[jax.Array, jax.Array]:
    """What stands at each place of rows with `tokens` a frame, int32 [B, L] twice: which of the row's text
    tokens, and which of its visual ones; -1 where the other stands, or nothing."""
    place = jnp.arange(room.length(tokens))
    prefix, video = rows.prefix_B[:, None], rows.frames_B[:, None] * tokens
    inside = place - prefix
    is_visual = (inside >= 0) & (inside < video)
    text = jnp.where(inside < 0, place, place - video)
    is_text = ~is_visual & (text < prefix + rows.suffix_B[:, None])
    return jnp.where(is_text, text, -1), jnp.where(is_visual, inside, -1)


def drop_tokens(x_BL, rows: RowLengths, room: RowCapacity, before: int, kept: tuple[int, ...]):
    """Rows [B, L, ...] with `before` tokens a frame to rows that keep the `kept` ones of each frame.

    Places past a row's end hold copies of others, as padding may.
    """
    after = len(kept)
    place = jnp.arange(room.length(after))
    prefix, frames = rows.prefix_B[:, None], rows.frames_B[:, None]
    inside = place - prefix
    frame, token = inside // after, jnp.asarray(kept)[inside % after]
    source = jnp.where(
        inside < 0,
        place,
        jnp.where(frame < frames, prefix + frame * before + token, place + frames * (before - after)),
    )
    source = jnp.minimum(source, x_BL.shape[1] - 1)
    return jnp.take_along_axis(x_BL, source.reshape(*source.shape, *(1,) * (x_BL.ndim - 2)), axis=1)


def compress_labels(labels_BL, rows: RowLengths, room: RowCapacity, plan: DropSchedule):
    """Labels of the tokens that the last layer sees; those of visual tokens cost nothing anyhow."""
    if plan.kept_indices[-1] == plan.kept_indices[0]:
        return labels_BL
    return drop_tokens(labels_BL, rows, room, plan.tokens[0], plan.kept_indices[-1])


def iterate_layers(
    decoder: Decoder, x_BLD, rows: RowLengths, room: RowCapacity, plan: DropSchedule, attend: Callable
) -> Iterator[tuple[int, jax.Array]]:
    """(0, what enters layer 0), (1, …), … and at last (layers, what the final norm gets).

    A layer is computed when the next pair is asked for.
    """
    for index in range(plan.layers):
        kept = plan.newly_kept(index + 1)
        if kept is not None:
            x_BLD = drop_tokens(x_BLD, rows, room, plan.tokens[index], kept)
        yield index, x_BLD
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])
        x_BLD = get_layer(decoder.layers, index)(x_BLD, angles, attend)
    yield plan.layers, x_BLD


def prefill(
    decoder: Decoder, x_BLD, rows: RowLengths, room: RowCapacity, plan: DropSchedule
) -> tuple[jax.Array, list[KV]]:
    """Normed hidden states of the last layer's tokens, and every layer's keys and values of its own.

    x_BLD: [B, room.length(plan.tokens[0]), D].
    """
    caches: list[KV] = []

    def attend(q, k, v, scale):
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True)

    for _, x in iterate_layers(decoder, x_BLD, rows, room, plan, attend):
        last = x
    return decoder.norm(last), caches


def forward(
    decoder: Decoder,
    x_BLD,
    rows: RowLengths,
    room: RowCapacity,
    plan: DropSchedule,
    *,
    remat: bool | str = False,
) -> jax.Array:
    """`prefill` without a cache, for training: layers between two drops are scanned together."""
    for start, stop in plan.constant_runs():
        kept = plan.newly_kept(start + 1)
        if kept is not None:
            x_BLD = drop_tokens(x_BLD, rows, room, plan.tokens[start], kept)
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])

        def body(x, block, _, angles=angles):
            return block(x, angles, lambda q, k, v, scale: attention(q, k, v, scale=scale, causal=True))

        x_BLD = scan_layers(body, x_BLD, decoder.layers, start, stop, remat=remat)
    return decoder.norm(x_BLD)
