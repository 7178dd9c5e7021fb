"""Token merging: a clip's patches become 16 tokens a frame, by joining those that look alike (xcomp §1.4).

Every step splits the tokens into those at even and those at odd places and merges the most similar even
ones into their odd partners, so at most half of the tokens go at once. Shapes are static. Ties go to the
first, where PyTorch leaves them open.
"""

import jax
import jax.numpy as jnp

METRIC = 64  # channels that tokens are compared in: the mean over "heads" of that size


def reductions(count: int, target: int) -> list[int]:
    """How many tokens each step removes on the way from `count` to `target`.

    Raises ValueError where there is no way: more tokens wanted than there are.
    """
    if target > count or target < 1:
        raise ValueError(f"{count} tokens cannot be merged to {target}")
    steps = []
    while count != target:
        steps.append(min(count - target, count // 2))
        count -= steps[-1]
    return steps


def merge(x_PD: jax.Array, target: int, metric: int = METRIC) -> tuple[jax.Array, jax.Array]:
    """One clip's tokens [P, D] to [target, D], and how many each stands for, float32 [target].

    Sizes sum to P and every token is the mean of those it stands for. Which are joined does not depend
    on gradients; the means do. `metric`: channels of a comparison, a divisor of D.
    """
    sizes = jnp.ones(x_PD.shape[0], jnp.float32)
    for count in reductions(x_PD.shape[0], target):
        x_PD, sizes = _step(x_PD, sizes, count, metric)
    return x_PD, sizes


def _step(x_PD, sizes_P, count: int, metric: int):
    """Merges the `count` most similar even tokens away.

    Order after it: even tokens that stay, the most similar first (not in time), then the odd ones.
    """
    sources, best = _match(x_PD, metric)
    order = jnp.argsort(-best, stable=True)
    gone, staying = order[:count], order[count:]
    even, odd = x_PD[0::2].astype(jnp.float32), x_PD[1::2].astype(jnp.float32)
    even_sizes, odd_sizes = sizes_P[0::2], sizes_P[1::2]
    weighted = odd * odd_sizes[:, None]
    weighted = weighted.at[sources[gone]].add(even[gone] * even_sizes[gone, None])
    odd_sizes = odd_sizes.at[sources[gone]].add(even_sizes[gone])
    merged = jnp.concatenate([even[staying], weighted / odd_sizes[:, None]])
    return merged.astype(x_PD.dtype), jnp.concatenate([even_sizes[staying], odd_sizes])


def _match(x_PD, metric: int):
    """Each even token's most similar odd one (the first of equals), and their cosine."""
    x = jax.lax.stop_gradient(x_PD).astype(jnp.float32)
    x = x.reshape(x.shape[0], -1, metric).mean(axis=1)
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    similarity = jnp.matmul(x[0::2], x[1::2].T, precision="highest")
    return jnp.argmax(similarity, axis=-1), jnp.max(similarity, axis=-1)
