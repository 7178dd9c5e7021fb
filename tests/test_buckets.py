"""Length buckets of XComp's pool: their shapes, their cycle, what they leave empty, and resuming."""

import dataclasses
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from tempo_jax import tasks
from tempo_jax.data import batch_packing, buckets, loader
from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.training.config import default
from tests.xcomp_systems import MICRO

TURNS = [{"from": "human", "value": "<image>\nwhat is red?"}, {"from": "gpt", "value": "the ball"}]


class Videos:
    """Videos of these lengths, black; counts which are read."""

    def __init__(self, lengths, tells=True):
        self.lengths, self.read = list(lengths), Counter()
        if tells:
            self.frame_counts = self.lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        self.read[index] += 1
        frames = np.zeros((self.lengths[index], 8, 8, 3), np.uint8)
        frames[:, 0, 0, 0] = index % 251
        return Sample(frames, 2.0, TURNS)


def config(rooms=(2, 4, 8), **changes) -> ConfigDict:
    values = default()
    values.task = "xcomp"
    values.batch.update({"shards": 2, "pool": 8, "row_length": 128, "conversations": 1, "length": 1})
    values.batch.buckets = rooms
    values.data.update({"workers": 0, "window": 64, "threads": 1})
    values.data.sources = (ConfigDict({"kind": "videos"}),)
    values.update_from_flattened_dict(changes)
    return values


@pytest.fixture
def batches(tokenizer, monkeypatch):
    def make(source, shards=(0, 1), **changes):
        monkeypatch.setattr(loader, "open_source", lambda _: source)
        return tasks.Batches(config(**changes), tokenizer, MICRO, list(shards))

    return make


def lengths(count=400, seed=0):
    """Log-uniform, of 1 to 8 clips and some more."""
    return (8 * np.exp(np.random.default_rng(seed).uniform(0, np.log(8.4), count))).astype(int)


def test_shapes_of_buckets():
    made = buckets.buckets_of(config().batch)
    assert made == (buckets.Bucket(2, 8, 8), buckets.Bucket(4, 8, 4), buckets.Bucket(8, 8, 1))
    assert [buckets.bucket_of(clips, made) for clips in (0, 2, 3, 4, 5, 8, 9)] == [0, 0, 1, 1, 2, 2, None]
    assert buckets.buckets_of(config(()).batch) == (buckets.Bucket(8, 8, 1),)


@pytest.mark.parametrize("rooms", [(2, 4), (4, 2, 8), (0, 8), (2, 2, 8), (2.5, 8), ("2", 8)])
def test_buckets_that_are_none_are_refused(rooms):
    with pytest.raises(TempoError, match=r"config.batch.buckets is .*ascending order"):
        buckets.buckets_of(ConfigDict({"pool": 8, "conversations": 1, "buckets": rooms}))


def test_buckets_are_xcomps(batches):
    with pytest.raises(TempoError, match=r"config.batch.buckets are for config.task=xcomp, not tempo"):
        batches(Videos([8]), task="tempo")


def test_every_length_is_used_as_often_and_little_stays_empty(batches):
    source = Videos(lengths())
    data, used = batches(source, [0], rooms=(2, 4, 6, 8)), Counter()
    for _ in range(60):
        batch = next(data)
        assert batch.frames_PFHWC.shape[1] in (6, 8)
        assert batch.memory_index_BL.shape[2] in {room * 128 for room in (2, 4, 6, 8)}
        used.update(int(frames) for frames in batch.frames_B.ravel() if frames)
    assert data.stats["waste"]["segments"] < 0.15
    ours = np.repeat(*zip(*used.items())) if used else np.zeros(0)
    fits = np.minimum(64, np.maximum(8, source.frame_counts // np.int64(8) * 8))
    assert abs(ours.mean() / fits.mean() - 1) < 0.12  # the mixture's mean length
    assert data.stats["skipped"] == {}
    data.close()


def test_without_buckets_most_of_the_pool_stays_empty(batches):
    data = batches(Videos(lengths()), [0], rooms=())
    list(itertools.islice(data, 60))
    assert data.stats["waste"]["segments"] > 0.4
    data.close()


def test_samples_of_other_buckets_are_not_read_where_lengths_are_known(batches):
    source = Videos([8] * 40 + [64] * 40)
    data = batches(source, [0])
    next(data)  # of the bucket that comes first
    data.close()
    short = sum(source.read[i] for i in range(40))
    assert 0 in (short, sum(source.read.values()) - short) or len(source.read) < 80


def test_lengths_that_nobody_tells_are_looked_up(batches):
    told, untold = (batches(Videos(lengths(60), tells)) for tells in (True, False))
    assert told._recipe.cycle == untold._recipe.cycle
    for _ in range(6):
        for a, b in zip(next(told), next(untold), strict=True):
            np.testing.assert_array_equal(a, b)
    told.close(), untold.close()


def test_shards_take_the_same_bucket_and_a_state_goes_on(batches):
    whole = batches(Videos(lengths(80)))
    first = [next(whole) for _ in range(3)]
    state = json.loads(json.dumps(whole.get_state()))
    rest = [next(whole) for _ in range(4)]
    whole.close()
    again = batches(Videos(lengths(80)))
    again.set_state(state)
    for expected in rest:
        for a, b in zip(expected, next(again), strict=True):
            np.testing.assert_array_equal(a, b)
    again.close()
    alone = batches(Videos(lengths(80)), [1])
    for both in first:
        one = next(alone)
        assert both.frames_B.shape[1] == 2 * one.frames_B.shape[1]
        np.testing.assert_array_equal(both.frames_B[:, one.frames_B.shape[1] :], one.frames_B)
    alone.close()


@pytest.mark.parametrize("mixture", ["uniform", "log-uniform", "half short"])
def test_padding_of_published_lengths_is_below_15_percent(mixture):
    """16 to 1024 frames in clips of 8, a pool of 128: the buckets of configs/xcomp_2b_sct.py."""
    from configs import xcomp_2b_sct
    from tests.bucket_padding import MIXTURES, padding

    batch = xcomp_2b_sct.get_config().batch
    clips = MIXTURES[mixture](np.random.default_rng(0), 3000)
    assert padding(clips, batch) < 0.15 < padding(clips, dataclass_free(batch))


def dataclass_free(batch):
    """The same without buckets."""
    plain = ConfigDict(batch.to_dict())
    plain.buckets = ()
    return plain


def test_too_long_is_what_no_bucket_has_room_for():
    shape = Shape(8, 128, 1, 1, room=4)
    need = batch_packing.Need(5, 10, 10, 0, alone=True)
    assert batch_packing.too_long(need, shape) == "more than 4 segments"
    assert batch_packing.too_long(need, dataclasses.replace(shape, room=None)) is None
