"""What decoding the answers of several askers together costs, beside the answer of one.

    python benchmarks/decode_batch.py                       8 answers, Qwen3-4B's width in 4 layers, float32
    python benchmarks/decode_batch.py --rows 2,4,8,16 --dtype bfloat16 --prompts 500,900,2000

Each answer has a cache of its own prompt's length, as after prefills of different videos. In every round one
answer is decoded alone, then so many together: gathering their rows into one batch is part of it. Medians and
ranges of CPU seconds and wall clock; the ratio is that of the medians. Weights are random.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dataclasses

from tempo_jax.models import build, stacks
from tempo_jax.models.presets import TEMPO_6B
from tempo_jax.runtime import batching, buckets, generate


def decoder(layers: int, dtype: str):
    config = dataclasses.replace(TEMPO_6B.llm, num_layers=layers)
    params = build.parameters(build.init(config, seed=0))
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    return build.build(config, stacks.unstack_layers(params))


def state_of(llm, prompt: int, new_tokens: int, dtype: str) -> generate.DecodeState:
    """As after the prefill of a prompt."""
    config = llm.config
    slots = buckets.pick_bucket(prompt, buckets.CACHE_BUCKETS) + new_tokens
    shape = (1, config.num_kv_heads, slots, config.head_dim)
    sampling = generate.SamplingParams(jnp.zeros(1), jnp.ones(1), jax.random.key(0)[None])
    return generate.DecodeState(
        tokens_BN=jnp.zeros((1, new_tokens), jnp.int32),
        count_B=jnp.ones(1, jnp.int32),
        length_B=jnp.full(1, prompt, jnp.int32),
        done_B=jnp.zeros(1, bool),
        cache=[(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers)],
        sampling=sampling,
    )


def decode(llm, prompts: list[int], args) -> tuple[float, float]:
    """CPU seconds and wall clock of answers decoded together."""
    states = [state_of(llm, prompt, args.new_tokens, args.dtype) for prompt in prompts]
    jax.block_until_ready(states)
    cpu, wall = time.process_time(), time.perf_counter()
    if len(states) > 1:
        shapes = [tuple(x.shape for x in jax.tree.leaves(s._replace(length_B=None))) for s in states]
        size = buckets.next_power_of_two(len(states))
        index = [*range(len(states)), *[0] * (size - len(states))]
        state = batching.gather_rows(states, index, len(prompts), shapes)
    else:
        (state,) = states
    limits = np.full(len(state.done_B), args.new_tokens, np.int32)
    state = generate.decode(llm, state, limits, greedy=True, eos=(-1,))  # none ends early
    assert np.asarray(state.count_B)[: len(prompts)].tolist() == [args.new_tokens] * len(prompts)
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="8", help="answers decoded together, with commas between")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--prompts", default="500,700,900,1200", help="their tokens, in turn")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    prompts = [int(word) for word in args.prompts.split(",")]
    counts = [1, *map(int, args.rows.split(","))]
    llm = decoder(args.layers, args.dtype)
    taken: dict[int, list] = {count: [] for count in counts}
    for number in range(-1, args.rounds):  # the first one compiles, and is not counted
        for count in counts:
            asked = [prompts[row % len(prompts)] for row in range(count)]
            seconds = decode(llm, [max(prompts)] if count == 1 else asked, args)
            taken[count] += [seconds] if number >= 0 else []
    print(f"{args.layers} layers, {args.dtype}, {args.new_tokens} new tokens each, prompts of {args.prompts}")
    print("| answers together | CPU s | wall clock, s | times one: CPU | times one: wall clock |")
    print("|---|---|---|---|---|")
    one = [statistics.median(x) for x in zip(*taken[1], strict=True)]
    for count in counts:
        columns = list(zip(*taken[count], strict=True))
        cells = [f"{statistics.median(x):.2f} ({min(x):.2f}-{max(x):.2f})" for x in columns]
        ratios = [f"{statistics.median(x) / y:.2f}" for x, y in zip(columns, one, strict=True)]
        print(f"| {' | '.join([str(count), *cells, *ratios])} |")


if __name__ == "__main__":
    main()
