"""tempo_jax.ata against golden outputs (golden/ata_cases.json), docs/reference/tempo.md and the contract."""

import json
import math
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import ata
from tempo_jax.errors import TempoError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "ata_cases.json").read_text())
SLOTS = 32  # one padded size for the property tests, so that they share one compilation
quick = hypothesis.settings(max_examples=150, deadline=None)

any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)
probability = st.floats(0, 1, width=32)
budgets = st.one_of(st.integers(0, 40), st.integers(0, 5000), st.sampled_from([2**31 - 1, 2**40]))


def scores(elements, min_size=0):
    return st.lists(elements, min_size=min_size, max_size=SLOTS).map(lambda x: np.array(x, np.float32))


def allocate(relevance, budget, *, slots=SLOTS, fill=np.nan, **limits):
    """`ata.allocate` on scores padded to `slots` with `fill`; checks the padding, returns the rest."""
    n = len(relevance)
    padded = np.full(slots, fill, np.float32)
    padded[:n] = relevance
    tokens = np.asarray(ata.allocate(padded, np.arange(slots) < n, budget, **limits))
    assert tokens.dtype == np.int32 and not tokens[n:].any()
    return tokens[:n]


def reference(relevance, budget, floor, cap):
    """The reference's algorithm (docs/reference/tempo.md#allocation) in numpy, budget >= N, min <= max."""
    s, n = np.asarray(relevance, np.float32), len(relevance)
    if n * floor > budget:
        floor = max(1, budget // n)
    with np.errstate(all="ignore"):
        spread = s.max() - s.min()
    if not np.isfinite(spread):
        return np.full(n, floor)
    if spread < 1e-8:
        return np.full(n, min(cap, budget // n))
    z = (s - s.min()) / spread
    ideal = floor + np.floor(z * np.float32(cap - floor)).astype(int)
    if ideal.sum() <= budget:
        return ideal
    extra = budget - n * floor
    weight = z / np.float32(math.fsum(z.astype(float)))
    tokens = floor + np.floor(weight * np.float32(extra)).astype(int)
    tokens[np.argsort(-weight, kind="stable")[: budget - tokens.sum()]] += 1
    return tokens


# --- allocation: recorded runs --------------------------------------------------------------------


def run_case(case):
    cap = min(case["max_tokens"] or case["n_tokens_per_segment"], case["n_tokens_per_segment"])
    limits = {"min_tokens": case["min_tokens"], "max_tokens": cap}
    return allocate(case["scores"], case["max_budget"], slots=512, **limits)


@pytest.mark.parametrize("group", ["w", "r", "l", "m"])
def test_golden_allocations(group):
    cases = [c for c in GOLDEN["cases"] if c["name"][0] == group and c["max_budget"] >= c["n_segments"]]
    assert cases
    wrong = {}
    for case in cases:
        want, got = case.get("allocations_stable_ties", case["allocations"]), run_case(case)
        if not np.array_equal(got, want):
            wrong[case["name"]] = int(np.abs(got - want).sum())
    assert not wrong


def test_golden_scores_with_fewer_tokens_than_segments():
    cases = [c for c in GOLDEN["cases"] if c["max_budget"] < c["n_segments"]]
    assert len(cases) >= 5
    for case in cases:
        got = run_case(case)
        best = np.argsort(-np.array(case["scores"], np.float32), kind="stable")[: case["max_budget"]]
        assert np.flatnonzero(got).tolist() == sorted(best) and got.max() == 1, case["name"]


SIX = [0.2, 0.8, 0.5, 0.1, 0.9, 0.3]
FOUR = [0.05, 0.25, 0.55, 0.95]


@pytest.mark.parametrize(
    ("relevance", "budget", "limits", "want"),
    [
        ([0.1, 0.4, 0.9, 0.2], 8192, (4, 128), [4, 50, 128, 19]),
        ([0.1, 0.4, 0.9, 0.2], 128, (4, 128), [4, 32, 79, 13]),
        ([0.37] * 5, 8192, (4, 128), [128] * 5),
        ([0.37] * 5, 100, (4, 128), [20] * 5),
        ([0.73], 8192, (4, 128), [128]),
        ([0.73], 64, (4, 128), [64]),
        (SIX, 24, (4, 128), [4] * 6),
        (SIX, 15, (4, 128), [2, 3, 2, 2, 4, 2]),
        (SIX, 4, (4, 128), [0, 1, 1, 0, 1, 1]),  # released: 1 x 6, over the budget
        ([0.5] * 6, 4, (4, 128), [1, 1, 1, 1, 0, 0]),  # released: nothing at all, then a crash
        ([0, 0, 0, 1, 0, 0, 0, 0], 100, (4, 128), [4, 4, 4, 72, 4, 4, 4, 4]),
        ([0, 1, 0, 0], 140, (4, 128), [4, 128, 4, 4]),
        ([0, 1], 132, (4, 128), [4, 128]),
        ([0, 1], 131, (4, 128), [4, 127]),
        ([0, 0.5, 0.5, 0.5, 0.5, 0], 40, (4, 128), [4, 8, 8, 8, 8, 4]),
        ([0.51, 0.49], 8192, (4, 128), [128, 4]),
        ([0, 5e-9, 2e-9], 8192, (4, 128), [128] * 3),
        ([0, 5e-8, 2e-8], 8192, (4, 128), [4, 128, 53]),
        ([0, 1 / 3, 2 / 3, 1], 200, (4, 128), [4, 34, 65, 97]),
        (FOUR, 8192, (4, 32), [4, 10, 19, 32]),
        (FOUR, 20, (4, 16), [4, 4, 5, 7]),
        ([0, 0.5, 1], 8192, (0, 128), [0, 64, 128]),
        ([np.nan, 0.2, 0.9], 8192, (4, 128), [4, 4, 4]),
        ([0.1, np.inf, 0.9], 8192, (4, 128), [4, 4, 4]),
        ([-np.inf, 0.3, 0.9], 8192, (4, 128), [4, 4, 4]),
        ([-3e38, 0.3, 3e38], 8192, (4, 128), [4, 4, 4]),  # the range overflows float32
        ([0.2, 0.3, 0.9], 8192, (8, 4), [4, 4, 4]),  # max wins over min
        ([np.nan, 0.2, np.inf, -np.inf], 2, (4, 128), [0, 1, 1, 0]),
        ([0.2, 0.3, 0.9], 0, (4, 128), [0, 0, 0]),
        ([], 100, (4, 128), []),
    ],
)
def test_worked_examples(relevance, budget, limits, want):
    got = allocate(relevance, budget, min_tokens=limits[0], max_tokens=limits[1])
    assert got.tolist() == want


def test_no_slots_at_all():
    assert ata.allocate(np.zeros(0, np.float32), np.zeros(0, bool), 100).shape == (0,)


# --- allocation: properties -----------------------------------------------------------------------


@quick
@hypothesis.given(scores(any_float), budgets, st.integers(0, 200), st.integers(1, 200))
def test_budget_and_limits_hold_for_any_scores(relevance, budget, floor, cap):
    tokens = allocate(relevance, budget, min_tokens=floor, max_tokens=cap)
    assert 0 <= tokens.sum() <= budget
    assert tokens.max(initial=0) <= cap
    if budget < len(relevance):
        assert tokens.sum() == budget
    elif len(relevance):
        assert tokens.min() >= min(floor, cap, max(1, budget // len(relevance)))


@quick
@hypothesis.given(scores(probability, min_size=1), st.integers(0, 3000), st.integers(0, 16))
def test_agrees_with_the_released_algorithm(relevance, surplus, floor):
    budget = len(relevance) + surplus
    want = reference(relevance, budget, floor, 128)
    assert allocate(relevance, budget, min_tokens=floor).tolist() == want.tolist()


def test_budget_holds_where_float32_cannot_count_it():
    n = 279_622
    relevance = np.ones(n, np.float32)
    relevance[0] = 0
    budget = 4 * n + 2**24 + 43  # the part above the floors is odd and beyond 2^24
    assert ata.allocate(relevance, np.ones(n, bool), budget).sum() <= budget


@quick
@hypothesis.given(scores(probability), budgets, any_float)
def test_padding_changes_nothing(relevance, budget, fill):
    want = allocate(relevance, budget)
    assert np.array_equal(allocate(relevance, budget, slots=2 * SLOTS, fill=fill), want)
    # nor does padding between the segments
    spread, valid = np.full(2 * SLOTS, fill, np.float32), np.zeros(2 * SLOTS, bool)
    valid[1 : 2 * len(relevance) : 2] = True
    spread[valid] = relevance
    assert np.array_equal(np.asarray(ata.allocate(spread, valid, budget))[valid], want)


@quick
@hypothesis.given(
    st.lists(st.integers(0, 1000), unique=True, min_size=1, max_size=SLOTS), budgets, st.randoms()
)
def test_order_of_distinct_scores_does_not_matter(values, budget, random):
    order = random.sample(range(len(values)), len(values))
    relevance = np.array(values, np.float32) / 1000
    assert np.array_equal(allocate(relevance[order], budget), allocate(relevance, budget)[order])


@quick
@hypothesis.given(scores(probability, min_size=2), st.integers(4 * SLOTS, 3000))
def test_lowest_score_gets_the_floor_and_more_relevance_never_fewer_tokens(relevance, budget):
    hypothesis.assume(np.ptp(relevance) >= 1e-6)
    tokens = allocate(relevance, budget)
    assert tokens[np.argmin(relevance)] == 4
    assert (np.diff(tokens[np.argsort(-relevance, kind="stable")]) <= 0).all()


def test_changing_budget_limits_and_scores_compiles_nothing():
    rng = np.random.default_rng(0)
    valid = jnp.ones(24, bool)
    traced = jax.jit(lambda r, v, b: ata.allocate(r, v, b))
    inner_before = ata._allocate._cache_size()
    for budget in (0, 7, 100, 8192, 2**31 - 1):
        relevance = rng.random(24, np.float32)
        inside = traced(relevance, valid, budget)
        assert np.array_equal(inside, ata.allocate(relevance, valid, budget))
        ata.allocate(relevance, valid, budget, min_tokens=budget % 5, max_tokens=64)
    assert traced._cache_size() == 1
    assert ata._allocate._cache_size() - inner_before <= 2  # called with a host and a traced budget


def test_allocation_is_the_same_without_jit():
    relevance = np.random.default_rng(1).random(12, np.float32)
    for budget in (5, 60, 200, 8192):
        want = np.asarray(ata.allocate(relevance, np.ones(12, bool), budget))
        with jax.disable_jit():
            assert np.array_equal(ata.allocate(relevance, np.ones(12, bool), budget), want)


def test_divide_rounds_like_ieee():
    rng = np.random.default_rng(2)
    divide = jax.jit(ata._divide)
    for low in (1e-8, 1e-3, 0.5, 1.0, 3.0, 500.0):
        denominator = np.float32(low * rng.uniform(1, 2))
        numerator = (rng.random(20_000, np.float32) ** 3 * denominator).astype(np.float32)
        numerator[:3] = 0, denominator, np.nextafter(denominator, np.float32(0))
        assert np.array_equal(divide(numerator, denominator), numerator / denominator)


def test_sum_is_rounded_once_whatever_the_order():
    rng = np.random.default_rng(3)
    total = jax.jit(ata._exact_sum)
    for power in (1, 4, 20):
        z = rng.random(700, np.float32) ** power
        z = z.astype(np.float32)
        assert total(z) == np.float32(math.fsum(z.astype(float))) == total(rng.permutation(z))


# --- keeping --------------------------------------------------------------------------------------


def kept_rows(memory, allocation, *args):
    """`ata.keep`, as one array of kept rows per segment; checks the mask and the zeros."""
    tokens, mask = (np.asarray(x) for x in ata.keep(memory, allocation, *args))
    assert tokens.shape == memory.shape and mask.shape == memory.shape[:2]
    assert np.array_equal(mask, np.arange(memory.shape[1]) < np.asarray(allocation)[:, None])
    assert not tokens[~mask].any()
    return [segment[: int(k)] for segment, k in zip(tokens, allocation, strict=True)]


def numbered_memory(segments, rows, dtype=np.float32):
    """Memory whose single channel is the row's own number within its segment."""
    return np.broadcast_to(np.arange(rows, dtype=dtype)[:, None], (segments, rows, 1))


@pytest.mark.parametrize("case", GOLDEN["strategy_cases"], ids=lambda c: f"{c['strategy']}{c['max_budget']}")
def test_golden_kept_rows(case):
    rows = case["n_tokens_per_segment"]
    allocation = allocate(case["scores"], case["max_budget"], min_tokens=case["min_tokens"], max_tokens=rows)
    assert allocation.tolist() == case["allocations"]
    kept = kept_rows(numbered_memory(4, rows), allocation, case["strategy"])
    assert [k[:, 0].tolist() for k in kept] == case["kept_token_indices"]


@quick
@hypothesis.given(st.lists(st.integers(0, 16), min_size=6, max_size=6))
def test_head_is_a_prefix_and_tail_a_suffix(allocation):
    memory = np.random.default_rng(0).standard_normal((6, 16, 3), np.float32)
    for k, head, tail, whole in zip(
        allocation, kept_rows(memory, allocation), kept_rows(memory, allocation, "tail"), memory, strict=True
    ):
        assert np.array_equal(head, whole[:k]) and np.array_equal(tail, whole[16 - k :])


def test_random_keeps_distinct_rows_in_order():
    memory, allocation = numbered_memory(50, 16), np.arange(50) % 17
    kept = kept_rows(memory, allocation, "random", jax.random.key(0))
    for rows in kept:
        assert (np.diff(rows[:, 0]) > 0).all()
    again = kept_rows(memory, allocation, "random", jax.random.key(0))
    other = kept_rows(memory, allocation, "random", jax.random.key(1))
    assert all(map(np.array_equal, kept, again)) and not all(map(np.array_equal, kept, other))
    halves = np.concatenate([k[:, 0] for k in kept_rows(memory, np.full(50, 8), "random", jax.random.key(2))])
    assert np.bincount(halves.astype(int), minlength=16).min() > 10  # no row is favoured: 25 expected


@pytest.mark.parametrize("case", GOLDEN["tome_merge_cases"], ids=lambda c: f"{c['n']}to{c['target_num']}")
def test_golden_merges(case):
    memory = np.array([case["input"]], np.float32)
    (got,) = kept_rows(memory, [case["target_num"]], "tome")
    np.testing.assert_allclose(got, case["output"], rtol=1e-6, atol=1e-6)


def reference_merge(rows, target):
    """Token merging of docs/reference/tempo.md#keeping-strategies, row by row."""
    while len(rows) > target:
        even, odd = rows[0::2], rows[1::2]
        unit_even, unit_odd = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (even, odd))
        similarity = unit_even @ unit_odd.T
        best = similarity.argmax(1)
        merged = np.argsort(-similarity.max(1), kind="stable")[: min(len(rows) - target, len(even))]
        groups = [[row] for row in odd]
        for i in merged:
            groups[best[i]].append(even[i])
        stay = np.delete(even, merged, axis=0)
        rows = np.concatenate([stay, np.array([np.mean(g, axis=0) for g in groups])])
    return rows


@pytest.mark.parametrize("rows", [1, 13, 128])
def test_merging_to_every_target(rows):
    targets = np.unique(np.linspace(0, rows, 30).astype(int))
    memory = np.random.default_rng(4).standard_normal((len(targets), rows, 8)).astype(np.float32)
    for got, whole, k in zip(kept_rows(memory, targets, "tome"), memory, targets, strict=True):
        want = reference_merge(whole.astype(float), k) if k else whole[:0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_merging_survives_zero_rows_and_keeps_the_dtype():
    memory = np.random.default_rng(5).standard_normal((9, 8, 4)).astype(jnp.bfloat16)
    memory[:, ::3] = 0
    memory[8] = 0
    tokens, _ = ata.keep(memory, np.arange(9), "tome")
    assert tokens.dtype == jnp.bfloat16 and np.isfinite(np.asarray(tokens, np.float32)).all()


@pytest.mark.parametrize("strategy", ata.KEEP_STRATEGIES)
def test_keep_inside_jit_is_the_same_and_compiles_once(strategy):
    memory = np.random.default_rng(6).standard_normal((4, 12, 5), np.float32)
    key = jax.random.key(0)
    traced = jax.jit(lambda m, a: ata.keep(m, a, strategy, key))
    for allocation in ([0, 3, 12, 7], [12, 0, 1, 2]):
        inside, outside = traced(memory, np.array(allocation)), ata.keep(memory, allocation, strategy, key)
        np.testing.assert_allclose(inside[0], outside[0], rtol=1e-6, atol=1e-6)
        assert np.array_equal(inside[1], outside[1])
    assert traced._cache_size() == 1


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["topk_compress_cases"], ids=lambda c: f"{c['k']}-{c['drop_ratio']}")
def test_golden_prunes(case):
    options = {
        "drop_ratio": case["drop_ratio"],
        "keep_tokens": case["k"],
        "max_tokens": case["n_tokens_per_segment"],
        "mode": case["strategy"],
    }
    relevance = np.array(case["scores"], np.float32)
    assert ata.prune(relevance, **options).tolist() == case["kept_per_segment"]
    padded, valid = np.pad(relevance, (0, 6), constant_values=9), np.arange(11) < 5
    assert ata.prune(padded, valid=valid, **options).tolist() == case["kept_per_segment"] + [0] * 6


def test_prune_modes():
    relevance = np.array([0.3, 0.9, 0.1, 0.5], np.float32)
    assert ata.prune(relevance, mode="lastk").tolist() == [128, 0, 128, 0]
    assert ata.prune(relevance, mode="lastk", drop_ratio=0.25, keep_tokens=200).tolist() == [128] * 4
    assert ata.prune(relevance[:1], drop_ratio=1.0).tolist() == [128]
    assert ata.prune(relevance, drop_ratio=1.0, keep_tokens=2).tolist() == [2] * 4
    draws = {tuple(ata.prune(relevance, mode="random", key=jax.random.key(i)).tolist()) for i in range(20)}
    assert len(draws) > 3 and all(sorted(d) == [0, 0, 128, 128] for d in draws)


def test_prune_counts_as_python_does_and_compiles_once():
    relevance = np.linspace(0, 1, 100, dtype=np.float32)
    before = ata._prune._cache_size()
    for ratio in (0.29, 0.3, 0.57, 0.58):  # int(100 * 0.29) == 28
        assert (np.asarray(ata.prune(relevance, drop_ratio=ratio)) == 0).sum() == int(100 * ratio)
    assert ata._prune._cache_size() == before + 1


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda r, v, m: ata.allocate(r, v, -1),
        lambda r, v, m: ata.allocate(r, v, 10, min_tokens=-1),
        lambda r, v, m: ata.allocate(r, v, 10, max_tokens=0),
        lambda r, v, m: ata.keep(m, [1, 1], "middle"),
        lambda r, v, m: ata.keep(m, [1, 1], "random"),
        lambda r, v, m: ata.prune(r, mode="best"),
        lambda r, v, m: ata.prune(r, mode="random"),
        lambda r, v, m: ata.prune(r, drop_ratio=1.5),
        lambda r, v, m: ata.prune(r, keep_tokens=-1),
    ],
)
def test_mistakes_are_one_sentence(call):
    with pytest.raises(TempoError) as error:
        call(np.zeros(2, np.float32), np.ones(2, bool), np.zeros((2, 4, 3), np.float32))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
