"""Batches that do not depend on who builds them, from what data there are."""

import contextlib
import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tempo_jax.data import batch_packing, shard_stream, sources
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.builders import Minireel
from tempo_jax.data.preparation import Settings
from tempo_jax.data.prepare import prepare
from tempo_jax.data.records import Encoding, open_prepared
from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.models.presets import TINY
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import TASKS, TrainLoader
from tests import memory_data
from tests.memory_data import SIZE, sample

TINY_FRAMES = VideoConfig(max_side=64, min_pixels=4096, max_pixels=4096)


@pytest.fixture(autouse=True)
def _sources(monkeypatch):
    for kind, source in memory_data.SOURCES.items():
        monkeypatch.setitem(sources.SOURCES, kind, source)


@pytest.fixture(scope="module")
def tokenizer(demo_tokenizer_dir):
    return Tokenizer(demo_tokenizer_dir)


def config(*sources, **changes) -> ConfigDict:
    values = ConfigDict(
        {
            "seed": 3,
            "task": "tempo",
            "batch": {
                "shards": 1, "micro_batches": 1, "segments": 8, "compressor_length": 256, "sequences": 3,
                "sequence_length": 256, "frame_sizes": (),
            },
            "data": {
                "sources": sources or ({"kind": "Numbered"},), "packing_window": 6,
                "workers": 0, "threads": 2,
            },
        }
    )  # fmt: skip
    values.update_from_flattened_dict(changes)
    return values


@pytest.fixture
def batches(tokenizer):
    """Makes pipelines, and stops their threads after the test."""
    with contextlib.ExitStack() as stack:

        def make(values: ConfigDict, mine=None) -> TrainLoader:
            mine = range(values.batch.shards) if mine is None else mine
            return stack.enter_context(contextlib.closing(TrainLoader(values, tokenizer, TINY, mine)))

        yield make


def take(pipeline, count):
    return [next(pipeline) for _ in range(count)]


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def values(batch) -> list[int]:
    """Which samples are in a batch with one micro-batch and shard: the values that memory points at."""
    first = batch.frames_PFHWC[0, :, 0, 0, 0, 0]
    index = batch.memory_index_BL[0]
    used = sorted({int(i) // TINY.memory_tokens for i in index[index >= 0]})
    return list(dict.fromkeys(int(first[segment]) for segment in used))


def test_mistakes_in_the_rest_of_a_config_are_one_sentence(batches):
    with pytest.raises(TempoError, match=r"set data\.sources"):
        batches(config(**{"data.sources": ()}))
    with pytest.raises(TempoError, match=r"frames of 2 sizes, height x width 32x32 \(20\), 64x64 \(20\)"):
        batches(config({"kind": "Numbered"}, {"kind": "Numbered", "size": 64}))
    with pytest.raises(TempoError, match="weight 0"):
        batches(config({"kind": "Numbered", "weight": 0.0}))
    with pytest.raises(TempoError, match=r"data\.workers is 2"):
        batches(config(**{"data.workers": 2}))


def test_the_same_config_gives_the_same_batches(batches):
    one, other = batches(config()), batches(config(**{"data.threads": 1}))
    ours = take(one, 12)
    assert_same(ours, take(other, 12))
    assert [values(b) for b in ours] != [values(b) for b in take(batches(config(seed=4)), 12)]


def test_every_pass_has_every_sample_once_in_an_order_of_its_own(batches):
    """Of two shards together; without a window, as that mixes passes."""
    made = batches(config(**{"data.packing_window": 1, "batch.shards": 2}))
    seen = [int(v) for b in take(made, 20) for v in b.frames_PFHWC[0, ::8, 0, 0, 0, 0]]
    first, second = seen[:20], seen[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and sorted(first) != first


@pytest.mark.parametrize("after", [0, 1, 5])
def test_resume_is_exact(batches, after):
    """From the state as JSON, in the middle of a window, with both sizes and micro-batches under way."""
    given = config({"kind": "Mixed"}, {"kind": "Numbered", "first": 100, "size": 64, "weight": 2.0})
    given.batch.update(sizes=((SIZE, SIZE), (64, 64), (64, 64)), micro_batches=2)
    one = batches(given)
    take(one, after)
    state = json.loads(json.dumps(one.get_state()))
    expected = take(one, 6)
    other = batches(given)
    other.set_state(state)
    assert_same(take(other, 6), expected)
    one.set_state(state)  # also where it has run on
    assert_same(take(one, 6), expected)


def test_a_worker_process_changes_nothing(batches):
    """The same batches and states; a state of one kind continues in the other; errors get through."""
    here, there = batches(config()), batches(config(**{"data.workers": 1}))
    assert_same(take(here, 3), take(there, 3))
    assert here.get_state() == there.get_state()
    assert here.stats == there.stats
    expected, state = take(here, 2), there.get_state()
    assert_same(take(there, 2), expected)
    here.set_state(state)
    assert_same(take(here, 2), expected)
    there.close()
    hopeless = batches(
        config({"kind": "Hopeless"}, **{"data.workers": 1, "batch.frame_sizes": ((SIZE, SIZE),)})
    )
    with pytest.raises(TempoError, match=r"No sample .* is usable"):
        next(hopeless)


def test_processes_build_parts_of_the_same_global_batch(batches):
    """Four shards here equal two and two elsewhere, and a shard's state moves between them."""
    given = config(**{"batch.shards": 4, "batch.micro_batches": 2})
    whole, left, right = batches(given), batches(given, (0, 1)), batches(given, (2, 3))
    take(whole, 2), take(left, 2)
    right.set_state(whole.get_state())
    ours, parts = next(whole), [next(left), next(right)]
    assert ours.frames_PFHWC.shape[:2] == (2, 4 * given.batch.segments)
    axis = lambda leaf: 2 if leaf.ndim == 4 and leaf.shape[1] == 3 else 1  # noqa: E731
    assert_same(ours, jax.tree.map(lambda a, b: np.concatenate([a, b], axis(a)), *parts))
    assert whole.get_state() == left.get_state() | right.get_state()
    rows = ours.memory_index_BL.reshape(2, 4, given.batch.sequences, -1)
    room = given.batch.segments * TINY.memory_tokens
    for shard in range(4):  # each points into its own part of the pool
        used = rows[:, shard][rows[:, shard] >= 0]
        assert used.min() == shard * room and used.max() < (shard + 1) * room


def test_micro_batches_are_batches_in_turn(batches):
    single, double = batches(config()), batches(config(**{"batch.micro_batches": 2}))
    stacked = jax.tree.map(lambda a, b: np.concatenate([a, b]), *take(single, 2))
    assert_same(next(double), stacked)


def test_sources_are_mixed_by_weight(batches):
    one, three = {"kind": "Numbered", "most": 1}, {"kind": "Numbered", "most": 1, "first": 100, "weight": 3.0}
    seen = [value for batch in take(batches(config(one, three)), 40) for value in values(batch)]
    assert len(seen) > 200
    assert np.mean([value >= 100 for value in seen]) == pytest.approx(0.75, abs=0.03)


def test_a_step_has_frames_of_one_size(batches):
    given = config({"kind": "Mixed"}, **{"batch.frame_sizes": ((64, 64), (SIZE, SIZE), (SIZE, SIZE))})
    made = batches(given)
    steps = take(made, 6)
    assert [b.frames_PFHWC.shape[3] for b in steps] == [64, SIZE, SIZE, 64, SIZE, SIZE]
    assert all(value % 2 == (b.frames_PFHWC.shape[3] == SIZE) for b in steps for value in values(b))
    assert not made.stats["skipped"]
    only = batches(config({"kind": "Mixed"}))  # that of the first sample
    assert {b.frames_PFHWC.shape[3] for b in take(only, 3)} == {64}
    assert set(only.stats["skipped"]) == {f"frames of {SIZE}x{SIZE}"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Questions about three reels of 16 seconds."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    settings = Settings(TINY_FRAMES, encoding=Encoding(quality=95))
    build = functools.partial(Minireel, split="train", count=3, seconds=16, size=64, settings=settings)
    prepare(build, folder)
    return folder


def test_prepared_data_make_batches(batches, prepared):
    """Decoded when a batch is made: the frames, the conversations and the resume of the records."""
    given = config({"kind": "prepared", "path": str(prepared)}, **{"batch.frame_sizes": ((64, 64),)})
    given.batch.update(compressor_length=1024, sequence_length=1024)
    made = batches(given)
    first = next(made)
    state = made.get_state()
    source, index = state[0]["streams"]["64x64"]["window"][0]
    assert source == 0 and isinstance(index, int)
    stored = open_prepared(prepared)
    frames = {bytes(frame) for i in range(len(stored)) for frame in stored[i].frames[:]}
    assert all(bytes(frame) in frames for frame in first.frames_PFHWC[0].reshape(-1, 64, 64, 3))
    expected = take(made, 3)
    made.set_state(state)
    assert_same(take(made, 3), expected)
    assert not made.stats["skipped"]
    with pytest.raises(TempoError, match=r"batch\.frame_sizes lists 32x32, but the data have 64x64 \("):
        batches(config({"kind": "prepared", "path": str(prepared)}, **{"batch.frame_sizes": ((32, 32),)}))


def test_what_cannot_be_used_is_skipped_and_counted(batches, monkeypatch):
    """For ever: what is bad in one pass is bad in the next, and that is no reason to stop."""
    made = batches(config({"kind": "Faulty", "count": 12}, **{"batch.frame_sizes": ((SIZE, SIZE),)}))
    monkeypatch.setattr(shard_stream, "_MIN_SKIP_LIMIT", 1)
    seen = [value for batch in take(made, 30) for value in values(batch)]
    assert set(seen) == {5, 11}
    assert len(seen) <= made.stats["samples"] <= 90  # the same one may come twice in a batch
    assert set(made.stats["skipped"]) == {
        "OSError: no such file", "the source has none there", "more than 8 segments", "frames of 64x64",
        "OSError: damaged image",
    }  # fmt: skip


def test_endless_data_of_which_nothing_fits_is_given_up(batches, monkeypatch):
    monkeypatch.setattr(shard_stream, "_MAX_UNUSABLE_IN_A_ROW", 40)
    endless = {"kind": "minireel", "count": 10**9, "seconds": 16}
    made = batches(config(endless, **{"batch.compressor_length": 20}))
    with pytest.raises(TempoError, match=r"among 40 in a row; .* more than 20 compressor tokens"):
        next(made)


def test_reasons_are_told_apart_up_to_a_limit(batches):
    made = batches(config({"kind": "Unlucky", "count": 100}, **{"batch.frame_sizes": ((SIZE, SIZE),)}))
    take(made, 20)
    skipped = made.stats["skipped"]
    assert len(skipped) == 33 and skipped["other reasons"] > 10
    assert sum(skipped.values()) == pytest.approx(made.stats["samples"], rel=0.3)  # one in two


@pytest.mark.parametrize("given", [{"kind": "Hopeless"}, {"kind": "Numbered", "size": 64}])
def test_data_without_a_usable_sample_end_in_one_sentence(batches, given):
    made = batches(config(given, **{"batch.frame_sizes": ((SIZE, SIZE),)}))
    with pytest.raises(TempoError, match=r"No sample with frames of 32x32 .* of this: (OSE|frames of)"):
        next(made)
    with pytest.raises(TempoError, match="No sample of the data can be read"):
        batches(config({"kind": "Hopeless"}))


def test_a_state_of_other_data_is_refused(batches):
    state = batches(config())
    next(state)
    state = state.get_state()
    with pytest.raises(TempoError, match="no shard 1"):
        batches(config(**{"batch.shards": 2})).set_state(state)
    other = batches(config({"kind": "Numbered", "count": 21}))
    with pytest.raises(TempoError, match=r"not those of the saved state: source 1, .*20 samples and has 21"):
        other.set_state(state)


def test_waste_counts_what_was_given_out(batches, tokenizer):
    made = batches(config({"kind": "Numbered", "most": 1}))
    take(made, 2)
    need, shape = (
        TASKS["tempo"].sample_size(sample(0), tokenizer, TINY),
        BatchShape(8, 256, 3, 256),
    )  # of config()
    assert made.stats["waste"] == pytest.approx(
        batch_packing.padding_fraction(batch_packing.occupancy([need] * 6, shape))
    )
