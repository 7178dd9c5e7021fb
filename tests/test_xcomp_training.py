"""Supervised compression tuning: the recorded loss and gradients, batches, subsets, configs."""

import dataclasses
import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.data.batch_packing import Shape, choose
from tempo_jax.data.minireel.text_sources import told
from tempo_jax.data.samples import Sample
from tempo_jax.data.sources import open_source
from tempo_jax.data.subset import Subset
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models.resize import resize_direct
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import TASKS
from tempo_jax.tasks.losses import cross_entropy
from tempo_jax.training import config as configs
from tempo_jax.training import optimiser, start, step
from tempo_jax.training.groups import LEARNABLE, split
from tempo_jax.utils.tree import flatten
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule
from tests import xcomp_systems as tiny
from tests.xcomp_systems import MICRO

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHAPE = Shape(pool=6, row_length=96, conversations=2, length=1)
TURNS = [{"from": "human", "value": "<image>\nwhat is red?"}, {"from": "gpt", "value": "the ball"}]


def sample(frames: int, seed: int = 0) -> Sample:
    return Sample(tiny.moving(frames, seed), 2.0, TURNS)


def test_batches_hold_the_published_prompt(tokenizer):
    """The time message before the question, which starts on a line of its own; frames in eights."""
    batch = TASKS["xcomp"].collate([sample(20), sample(8, 1)], tokenizer, MICRO, SHAPE)
    assert batch.frames_B.tolist() == [16, 8] and batch.frames_PFHWC.shape == (6, 8, 40, 48, 3)
    prefix, suffix = int(batch.prefix_B[0]), int(batch.suffix_B[0])
    assert batch.text_BS[0, :prefix].tolist() == tokenizer.llm_prefix_ids
    said = tokenizer.decode(batch.text_BS[0, prefix : prefix + suffix])
    message = "The video lasts for 10.00 seconds, and 16 frames are uniformly sampled from it."
    expected = tokenizer.decode(tokenizer.encode(f"\n{message} \nwhat is red?"))
    assert said.startswith(expected)
    assert (batch.memory_index_BL[0, :256] == np.arange(256)).all() and (
        batch.memory_index_BL[0, 256:] == -1
    ).all()
    assert (batch.memory_index_BL[1, :128] == 256 + np.arange(128)).all()
    stacked = jax.tree.map(lambda x: np.stack([x, x]), batch)  # as many micro-batches
    last = [int(np.flatnonzero(row != IGNORE)[-1]) + 1 for row in batch.labels_BS]
    assert TASKS["xcomp"].counts(stacked, 0) == (2 * (sum(last) + 24 * 16), 2 * 24)
    learned = batch.labels_BS[0] != IGNORE
    assert learned.sum() >= len(tokenizer.encode("the ball")) and not learned[prefix + suffix :].any()


def test_a_picture_stands_as_16_tokens_of_its_own(tokenizer):
    """No clip, no time message; its cost is what a prompt of those tokens costs, alone or beside a video."""
    picture = Sample(tiny.moving(1, 3), None, TURNS)
    batch = TASKS["xcomp"].collate([sample(16), picture], tokenizer, MICRO, SHAPE)
    assert batch.frames_B.tolist() == [16, 1] and (batch.images_BHWC[1] == picture.frames[0]).all()
    prefix, suffix = int(batch.prefix_B[1]), int(batch.suffix_B[1])
    said = tokenizer.decode(batch.text_BS[1, prefix : prefix + suffix])
    assert said.startswith(tokenizer.decode(tokenizer.encode("\nwhat is red?")))
    stacked = jax.tree.map(lambda x: x[None], batch)
    assert TASKS["xcomp"].counts(stacked, 128).frames == 17

    model, alone = build.init(MICRO, 2), TASKS["xcomp"].collate([picture], tokenizer, MICRO, SHAPE)
    loss = jax.jit(TASKS["xcomp"].loss, static_argnames="remat")
    one, both = (loss(model, jax.tree.map(jnp.asarray, b), remat=False) for b in (alone, batch))
    other = loss(
        model,
        jax.tree.map(jnp.asarray, TASKS["xcomp"].collate([sample(16)], tokenizer, MICRO, SHAPE)),
        remat=False,
    )
    assert both.total == pytest.approx(float(one.total + other.total), rel=1e-5)
    changed = alone._replace(images_BHWC=255 - alone.images_BHWC)
    assert loss(model, jax.tree.map(jnp.asarray, changed), remat=False).total != one.total
    ids, made = alone.text_BS[:1], make_schedule(MICRO.compression, MICRO.llm.num_layers, MICRO.frame_tokens)
    tokens = model.encode_clips(
        resize_direct(jnp.asarray(picture.frames), (MICRO.vision.image_size,) * 2)[None]
    )[0]
    x = jnp.concatenate([model.llm.embed(ids[0, :prefix]), tokens, model.llm.embed(ids[0, prefix:])])[None]
    rows = token_compression.RowLengths(*(jnp.asarray([n]) for n in (prefix, 1, suffix)))
    room = token_compression.RowCapacity(ids.shape[1], 1)
    hidden = token_compression.forward(model.llm, x, rows, room, made, remat=False)
    labels = np.concatenate(
        [alone.labels_BS[0, :prefix], np.full(MICRO.frame_tokens, IGNORE), alone.labels_BS[0, prefix:]]
    )
    kept = token_compression.compress_labels(jnp.asarray(labels)[None], rows, room, made)
    shifted = jnp.pad(kept[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    assert one.total == pytest.approx(float(cross_entropy(model.llm.logits, hidden, shifted).total), rel=1e-5)


def test_rows_of_a_batch_cost_what_they_cost_alone(tokenizer):
    samples = [sample(16), sample(8, 1)]
    model = build.init(MICRO, 2)
    loss = jax.jit(TASKS["xcomp"].loss, static_argnames="remat")

    def cost(some):
        batch = TASKS["xcomp"].collate(some, tokenizer, MICRO, SHAPE)
        return loss(model, jax.tree.map(jnp.asarray, batch), remat=False)

    both, one, other = cost(samples), cost(samples[:1]), cost(samples[1:])
    assert both.tokens == one.tokens + other.tokens > 0
    assert both.total == pytest.approx(float(one.total + other.total), rel=1e-5)


def test_samples_share_batches_one_to_a_row(tokenizer):
    needs = [TASKS["xcomp"].sample_size(sample(8 * n), tokenizer, MICRO) for n in (1, 2, 1, 3)]
    assert [need.segments for need in needs] == [1, 2, 1, 3] and all(need.alone for need in needs)
    assert choose(needs, SHAPE) == [0, 3]
    picture = TASKS["xcomp"].sample_size(Sample(tiny.moving(1), None, TURNS), tokenizer, MICRO)
    assert picture.segments == 0 and picture.alone
    single = dataclasses.replace(MICRO, clip_frames=1)
    assert TASKS["xcomp"].sample_size(Sample(tiny.moving(1), None, TURNS), tokenizer, single).segments == 0
    nothing = Shape(0, SHAPE.row_length, 1, 1)
    batch = TASKS["xcomp"].collate([Sample(tiny.moving(1, 3), None, TURNS)], tokenizer, single, nothing)
    assert (batch.memory_index_BL == -1).all(), "an image takes nothing of the pool, whatever a clip is"
    with pytest.raises(ValueError, match="no frames"):
        TASKS["xcomp"].sample_size(Sample(tiny.moving(1)[:0], None, TURNS), tokenizer, MICRO)


def test_training_lowers_the_loss_and_leaves_the_tower_alone(tokenizer):
    batch = TASKS["xcomp"].collate([sample(16)], tokenizer, MICRO, SHAPE)
    micro = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    params = build.parameters(build.init(MICRO, 2))
    rates = {"llm": 3e-3, "projector": 3e-3}
    learning, frozen = split(params, rates)
    assert all(path.startswith("vision/") for path in frozen)
    tuned = optimiser.make(optimiser.OptimiserConfig(rates, steps=9, warmup_ratio=0.1), learning)
    run = jax.jit(step.make_step(MICRO, tuned, task=TASKS["xcomp"], dtype=jnp.float32, remat="none"))
    state, losses = step.initial(learning, tuned), []
    for _ in range(5):
        state, metrics = run(state, frozen, micro)
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] - 0.1 and int(state.skipped) == 0
    assert TASKS["xcomp"].step_flops(MICRO, micro, rates) > 0


def test_a_subset_is_the_second_slice():
    """T: 10 % of 1000, not the first, and a quarter of it; none twice, always the same."""
    whole = Subset(range(1000), 10.0)
    part = Subset(range(1000), 10.0, 0.0, 0.25)
    assert len(whole) == 100 and len(part) == 25 and set(part) < set(whole)
    assert len(set(whole)) == 100 and list(part) == list(Subset(range(1000), 10.0, 0.0, 0.25))
    first = Subset(range(1000), 10.0, 0.25, 1.0)
    assert not set(first) & set(part) and set(first) | set(part) == set(whole)
    with pytest.raises(TempoError, match="percent must be above 0"):
        open_source({"kind": "prepared_part", "path": "x", "percent": 90.0})


@pytest.mark.parametrize(
    "name",
    [
        "xcomp_2b_sct",
        "xcomp_minireel_glimpse",
        "xcomp_minireel_see",
        "xcomp_minireel",
        "xcomp_minireel_sct",
    ],
)
def test_configs_are_valid_runs(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    configs.check(config)
    rows = re.findall(r"^    (\w+) +(frozen|\d[\d.e-]*)\b", module.__doc__, re.MULTILINE)
    assert tuple(group for group, _ in rows) == LEARNABLE
    rates = {group: 0.0 if rate == "frozen" else float(rate) for group, rate in rows}
    assert rates == dict(config.rates)
    assert f"python train.py --config=configs/{name}.py --workdir=build/xcomp" in module.__doc__


def test_the_published_values():
    config = importlib.import_module("configs.xcomp_2b_sct").get_config()
    batch = config.batch
    assert config.steps == 2247 and batch.shards * batch.micro_batches * batch.conversations == 32
    assert batch.pool * 8 == 1024 and config.optimiser.warmup_ratio == 0.03
    assert (config.optimiser.b1, config.optimiser.b2, config.optimiser.clip_norm) == (0.9, 0.999, 1.0)
    assert config.optimiser.weight_decay == 0 and config.optimiser.final_ratio == 0


def test_paths_of_the_model_are_known_to_groups():
    names = flatten(build.shapes(MICRO))
    learning, frozen = split(names, {"llm": 1.0, "projector": 1.0})
    assert len(learning) + len(frozen) == len(names)


def test_compression_by_name():
    """A run may train another LP-Comp than the preset's; a name that is none, or of another task, is said."""
    config = importlib.import_module("configs.xcomp_minireel_glimpse").get_config()
    assert start.architecture(config).config.compression == VARIANTS["none"]
    config.compression = ""
    assert start.architecture(config).config.compression == VARIANTS["released"]
    config.compression = "cosine"
    with pytest.raises(TempoError, match=r"config\.compression is 'cosine': use one of released, paper"):
        configs.check(config)
    other = importlib.import_module("configs.demo_see").get_config()
    other.compression = "none"
    with pytest.raises(TempoError, match=r"config\.compression is for config\.task=xcomp, not svlm"):
        configs.check(other)


def test_what_is_described_is_what_frames_show():
    """At one frame in 4 s an event between two frames is not told."""
    fields = {"kind": "minireel", "seconds": 32, "described": True, "turns": 0, "count": 40}
    sparse, dense = (open_source(fields | {"look_fps": fps}) for fps in (0.25, 2.0))
    fewer = 0
    for index in range(0, 280, 7):
        few, all_ = sparse[index], dense[index]
        assert (len(few.frames), len(all_.frames), len(few.conversation)) == (8, 64, 2)
        whole = all_.conversation[1]["value"]
        assert whole == told(all_.frames.spec)
        said = few.conversation[1]["value"].split("<")[1:]
        assert len(said) == 8
        fewer += sum(part not in whole.split("<") for part in said)
    assert 0 < fewer < 40 * 8 / 2


def test_a_run_validates_and_answers_as_its_model_does(tokenizer, tmp_path):
    """XComp's own batches and questions, through the loop."""
    from ml_collections import ConfigDict

    import tempo_jax
    from tempo_jax import checkpoint
    from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
    from tempo_jax.training import config as configs
    from tempo_jax.training import loop

    minireel_tokenizer.write(tmp_path / "tokenizer")
    params = build.parameters(build.init(MICRO, 2))
    checkpoint.save(tmp_path / "start", "xcomp", MICRO, params, tmp_path / "tokenizer")
    np.save(tmp_path / "video.npy", tiny.moving(16))
    reel = {"kind": "minireel", "seconds": 8, "size": 32, "count": 20, "look_fps": 1.0, "turns": 1}
    config = configs.default()
    config.task, config.init.checkpoint, config.steps = "xcomp", str(tmp_path / "start"), 2
    config.rates.llm, config.dtype, config.remat, config.log_every = 1e-3, "float32", "none", 1
    config.batch.update({"pool": 4, "row_length": 400, "conversations": 1, "length": 400})
    config.data.update({"sources": (ConfigDict(reel),), "window": 4, "threads": 1})
    asked = ConfigDict({"video": str(tmp_path / "video.npy"), "question": "What?", "max_frames": 16})
    validation = {"every": 2, "sources": (ConfigDict(reel | {"split": "validation"}),), "batches": 1}
    config.validation.update(validation | {"questions": (asked,), "max_new_tokens": 3})
    config.mesh.fsdp = 1
    assert loop.train(config, tmp_path / "run") == loop.FINISHED
    (row,) = map(json.loads, (tmp_path / "run" / "validation.jsonl").read_text().splitlines())
    assert row["step"] == 2 and row["validation_loss"] > 0 and row["validation_tokens"] > 0
    answer = tempo_jax.load(tmp_path / "run" / "model").ask(
        asked.video, "What?", max_frames=16, max_new_tokens=3
    )
    assert [found["text"] for found in row["answers"]] == [answer.text]
