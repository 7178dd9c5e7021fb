"""LP-Comp: visual tokens are dropped between the layers of the LLM (docs/reference/xcomp.md#schedule).

How many tokens of a frame each layer processes, and which, is a `DropSchedule`: integer tables that depend on
the configuration only, computed in float64. Layers count from 0; a drop before layer 0 is a drop like any
other.

A sequence is [prefix text | frames x 16 visual tokens | suffix text | padding]. Between two layers the kept
tokens move together, and positions are assigned anew: the positions of each layer are 0, 1, 2, ..., and its
keys and values are those of exactly the tokens it processes. Everything is a gather with indices computed
from the lengths of the sequences, which may differ within a batch while shapes are static. For example, a
prefix P of 2 tokens, two frames a and b of 4 tokens, of which the last 3 are kept, and a suffix S of 1 token:

    before   P0 P1 a0 a1 a2 a3 b0 b1 b2 b3 S0
    after    P0 P1    a1 a2 a3    b1 b2 b3 S0  =  P0 P1 a1 a2 a3 b1 b2 b3 S0
    index     0  1     3  4  5     7  8  9 10
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.errors import TempoError
from tempo_jax.models.config import LPCompConfig
from tempo_jax.models.decoder import KV, AttentionFunction, Decoder
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
    """Which visual tokens of a frame each layer of an LLM processes.

    Attributes:
      input_tokens: Tokens of a frame that enter the LLM.
      kept_indices: For each layer, the indices in 0..input_tokens-1 of the tokens that it processes,
        ascending. The last index is always kept.
    """

    input_tokens: int
    kept_indices: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def layer_tokens(self) -> tuple[int, ...]:
        """Tokens of a frame that each layer processes."""
        return tuple(map(len, self.kept_indices))

    @property
    def num_layers(self) -> int:
        return len(self.kept_indices)

    def tokens_before(self, layer: int) -> int:
        """Tokens of a frame before the drop that precedes `layer`."""
        return self.layer_tokens[layer - 1] if layer else self.input_tokens

    def newly_kept(self, layer: int) -> tuple[int, ...] | None:
        """Which of the tokens before it `layer` keeps, as indices among them; None where it drops none."""
        before = self.kept_indices[layer - 1] if layer else tuple(range(self.input_tokens))
        after = self.kept_indices[layer]
        return None if before == after else tuple(before.index(token) for token in after)

    def constant_runs(self) -> list[tuple[int, int]]:
        """[start, stop) of the runs of layers without a drop inside, which may be scanned together."""
        starts = [i for i in range(self.num_layers) if i == 0 or self.newly_kept(i) is not None]
        return list(zip(starts, [*starts[1:], self.num_layers], strict=True))


@functools.lru_cache(maxsize=64)
def make_schedule(config: LPCompConfig, layers: int, tokens: int) -> DropSchedule:
    """The schedule of an LLM of `layers` layers and frames of `tokens` tokens.

    Raises:
      TempoError: The configuration is invalid.
    """
    for name, choices in (("schedule", SCHEDULES), ("rounding", ROUNDINGS), ("keep", KEEPS)):
        if getattr(config, name) not in choices:
            raise TempoError(
                f"compression.{name} is {getattr(config, name)!r}: use one of {', '.join(choices)}."
            )
    if (config.schedule == "steps") != (config.keep == "stride"):
        raise TempoError('compression.keep "stride" and compression.schedule "steps" go together: set both.')
    all_tokens = tuple(range(tokens))
    if config.schedule == "none":
        return DropSchedule(tokens, (all_tokens,) * layers)
    if config.schedule == "steps":
        return DropSchedule(tokens, _strided_indices(config, layers, all_tokens))
    counts = cosine_counts(layers, tokens, config.rounding)[1:]
    if config.keep == "suffix":
        return DropSchedule(tokens, tuple(all_tokens[tokens - count :] for count in counts))
    return DropSchedule(tokens, tuple(_uniform_indices(tokens)[count] for count in counts))


def cosine_counts(layers: int, tokens: int, rounding: str = "round") -> list[int]:
    """Tokens that enter the LLM and that each layer processes: half a cosine from `tokens` to 1.

    rounding: "round" rounds halves up, "ceil" rounds everything up. In the middle of 28 layers the value is a
    tie, which float32 or rounding half to even would get wrong.
    """
    half = (tokens - 1) / 2
    if rounding == "ceil":
        values = [half * math.cos(math.pi * i / layers) + (tokens + 1) / 2 for i in range(layers + 1)]
        return [math.ceil(value) for value in values]
    values = [half * (1 + math.cos(math.pi * i / layers)) for i in range(layers + 1)]
    return [1 + math.floor(value + 0.5) for value in values]


@functools.lru_cache(maxsize=16)
def _uniform_indices(tokens: int) -> dict[int, tuple[int, ...]]:
    """For each count, that many kept tokens, spaced as evenly as removing one after the other allows.

    Each removal is the first whose result is the most even (`_unevenness`). Exact ties are frequent and
    float64 rounding decides them, so the sum is formed in the order of the reference implementation.
    """
    by_count = {tokens: tuple(range(tokens))}
    for count in range(tokens - 1, 0, -1):
        before = by_count[count + 1]
        candidates = [before[:i] + before[i + 1 :] for i in range(len(before))]
        by_count[count] = min(candidates, key=lambda kept: _unevenness(kept, tokens))
    return by_count


def _unevenness(kept: tuple[int, ...], tokens: int) -> float:
    """Squared distances of the kept tokens (but the last) from even spacing, summed from the left."""
    total = 0.0  # not sum(), which newer Python versions compensate
    for j, token in enumerate(kept[:-1], 1):
        total += (tokens * j / len(kept) - (token + 1)) ** 2
    return total


def _strided_indices(config: LPCompConfig, layers: int, kept: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Keeps the last of every `stride` tokens from each layer in `step_layers` on."""
    table = []
    for layer in range(layers):
        if layer in config.step_layers:
            if len(kept) % config.stride:
                raise TempoError(
                    f"compression.stride {config.stride} does not divide the {len(kept)} tokens a frame "
                    f"has after layer {layer}: choose another."
                )
            kept = kept[config.stride - 1 :: config.stride]
        table.append(kept)
    return tuple(table)


class RowLengths(NamedTuple):
    """The real lengths of B sequences, int32 [B] each."""

    prefix_B: jax.Array  # text tokens before the video
    frames_B: jax.Array  # frames of visual tokens
    suffix_B: jax.Array  # text tokens after the video

    def per_layer(self, schedule: DropSchedule) -> jax.Array:
        """Real tokens that each layer processes, int32 [layers, B]; also the position of a new token."""
        return jnp.stack(
            [self.prefix_B + self.suffix_B + self.frames_B * tokens for tokens in schedule.layer_tokens]
        )


class RowCapacity(NamedTuple):
    """The static size of a batch: the maximum number of text tokens and of frames of a sequence."""

    text: int
    frames: int

    def length(self, tokens: int) -> int:
        """Length of a sequence with `tokens` tokens per frame."""
        return self.text + self.frames * tokens


def token_indices(lengths: RowLengths, capacity: RowCapacity, tokens: int) -> tuple[jax.Array, jax.Array]:
    """The text token and the visual token at each position, int32 [B, L] each, with `tokens` per frame.

    An index is among the sequence's text tokens, or among its visual tokens; -1 where the position holds the
    other kind or padding.
    """
    position = jnp.arange(capacity.length(tokens))
    prefix, num_visual = lengths.prefix_B[:, None], lengths.frames_B[:, None] * tokens
    visual = position - prefix
    is_visual = (visual >= 0) & (visual < num_visual)
    text = jnp.where(visual < 0, position, position - num_visual)
    is_text = ~is_visual & (text < prefix + lengths.suffix_B[:, None])
    return jnp.where(is_text, text, -1), jnp.where(is_visual, visual, -1)


def drop_tokens(x_BL, lengths: RowLengths, capacity: RowCapacity, tokens_before: int, kept: tuple[int, ...]):
    """Keeps the tokens `kept` of each frame, which has `tokens_before`; x_BL: [B, L, ...].

    The example in the module's docstring shows the indices. Padding holds copies of other tokens.
    """
    tokens_after = len(kept)
    position = jnp.arange(capacity.length(tokens_after))
    prefix, frames = lengths.prefix_B[:, None], lengths.frames_B[:, None]
    visual = position - prefix  # index among the kept visual tokens; negative in the prefix
    frame, token = visual // tokens_after, jnp.asarray(kept)[visual % tokens_after]
    in_prefix, in_frames = visual < 0, frame < frames
    from_frames = prefix + frame * tokens_before + token
    from_suffix = position + frames * (tokens_before - tokens_after)
    source = jnp.where(in_prefix, position, jnp.where(in_frames, from_frames, from_suffix))
    source = jnp.minimum(source, x_BL.shape[1] - 1)
    return jnp.take_along_axis(x_BL, source.reshape(*source.shape, *(1,) * (x_BL.ndim - 2)), axis=1)


def compress_labels(labels_BL, lengths: RowLengths, capacity: RowCapacity, schedule: DropSchedule):
    """Labels of the tokens that the last layer processes; visual tokens have none in any case."""
    if schedule.layer_tokens[-1] == schedule.input_tokens:
        return labels_BL
    return drop_tokens(labels_BL, lengths, capacity, schedule.input_tokens, schedule.kept_indices[-1])


def iterate_layers(
    decoder: Decoder,
    x_BLD,
    lengths: RowLengths,
    capacity: RowCapacity,
    schedule: DropSchedule,
    attend: AttentionFunction,
) -> Iterator[tuple[int, jax.Array]]:
    """Yields (index, input of layer `index`) for each layer, then (num_layers, input of the final norm).

    A layer is computed when the next pair is asked for.
    """
    for index in range(schedule.num_layers):
        kept = schedule.newly_kept(index)
        if kept is not None:
            x_BLD = drop_tokens(x_BLD, lengths, capacity, schedule.tokens_before(index), kept)
        yield index, x_BLD
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])
        x_BLD = get_layer(decoder.layers, index)(x_BLD, angles, attend)
    yield schedule.num_layers, x_BLD


@jax.named_scope("lp_comp")
def prefill(
    decoder: Decoder, x_BLD, lengths: RowLengths, capacity: RowCapacity, schedule: DropSchedule
) -> tuple[jax.Array, list[KV]]:
    """Hidden states of the last layer's tokens after the final norm, and every layer's keys and values.

    x_BLD: [B, capacity.length(schedule.input_tokens), D].
    """
    caches: list[KV] = []

    def attend(q, k, v, scale):
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True, rules=decoder.rules)

    for _, x in iterate_layers(decoder, x_BLD, lengths, capacity, schedule, attend):
        last = x
    return decoder.norm(last), caches


@jax.named_scope("lp_comp")
def forward(
    decoder: Decoder,
    x_BLD,
    lengths: RowLengths,
    capacity: RowCapacity,
    schedule: DropSchedule,
    *,
    remat: bool | str = False,
) -> jax.Array:
    """As `prefill` without a cache, for training: layers between two drops are scanned together."""

    def attend(q, k, v, scale):
        return attention(q, k, v, scale=scale, causal=True, rules=decoder.rules)

    for start, stop in schedule.constant_runs():
        kept = schedule.newly_kept(start)
        if kept is not None:
            x_BLD = drop_tokens(x_BLD, lengths, capacity, schedule.tokens_before(start), kept)
        angles = decoder.angles(jnp.arange(x_BLD.shape[1])[None])

        def body(x, layer, _, angles=angles):
            return layer(x, angles, attend)

        x_BLD = scan_layers(body, x_BLD, decoder.layers, start, stop, remat=remat, rules=decoder.rules)
    return decoder.norm(x_BLD)
