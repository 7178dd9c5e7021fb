"""Configs are lab records: what their docstrings say is what they do."""

import importlib
import re
from pathlib import Path

import pytest

from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.sources import open_source
from tempo_jax.models.presets import PRESETS
from tempo_jax.training import config as configs
from tempo_jax.training.groups import LEARNABLE

FOLDER = Path(__file__).resolve().parent.parent / "configs"
STAGES = [f"{size}_stage{stage}" for size in ("tiny", "tempo_6b") for stage in range(4)]
ROW = re.compile(r"^    (\w+) +(frozen|\d[\d.e-]*)\b", re.MULTILINE)


def load(name):
    return importlib.import_module(f"configs.{name}")


def test_every_stage_is_tested():
    assert {path.stem for path in FOLDER.glob("t*.py")} == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_the_table_of_a_docstring_is_what_learns(name):
    module = load(name)
    rows = ROW.findall(module.__doc__)
    assert tuple(group for group, _ in rows) == LEARNABLE
    rates = {group: 0.0 if rate == "frozen" else float(rate) for group, rate in rows}
    assert rates == dict(module.get_config().rates)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_a_valid_run_that_goes_on_from_the_one_before(name):
    module = load(name)
    config = module.get_config()
    configs.check(config)
    size, stage = name.split("_stage")
    assert f"python train.py --config=configs/{name}.py --workdir=build/{size}/stage{stage}" in module.__doc__
    before = f"build/{size}/stage{int(stage) - 1}/model"
    assert config.init.checkpoint == (before if stage != "0" else "")
    if config.batch.micro_batches > 1:
        assert f"{config.batch.shards * config.batch.micro_batches} micro-batches" in module.__doc__


@pytest.mark.parametrize("name", STAGES)
def test_the_longest_sample_that_is_promised_fits(name):
    """Memory tokens, a tag of 9 tokens a segment and some text, in the LLM; a segment and its question."""
    config, doc = load(name).get_config(), load(name).__doc__
    model, batch = PRESETS[config.model or "demo"], config.batch
    shape = Shape(batch.pool, batch.row_length, batch.conversations, batch.length)
    frames = [int(found) for found in re.findall(r"--max-frames=(\d+)", doc)]
    frames += [source.seconds * 2 for source in config.data.sources if isinstance(source.get("seconds"), int)]
    segments = -(-max(frames, default=1) // model.video.segment_frames)
    assert segments <= shape.pool
    assert shape.length >= segments * (model.memory_tokens + 9) + 32
    patches = [h * w // model.compressor.vision.merged_patch_pixels**2 for h, w in batch.sizes] or [16]
    slices = 1 if not frames else model.video.segment_frames // 2
    assert shape.row_length >= slices * max(patches) + model.memory_tokens + 32


@pytest.mark.parametrize("name", [name for name in STAGES if name.startswith("tiny")])
def test_the_data_of_the_tiny_stages_can_be_made(name):
    (source,) = load(name).get_config().data.sources
    assert open_source(source)[0].frames.shape[1:3] == (64, 64)


def test_a_prepared_set_is_named_after_a_colon():
    config, usual = load("tiny_stage2").get_config("data/mine"), load("tiny_stage2").get_config()
    assert config.batch.length > usual.batch.length and config.batch.row_length > usual.batch.row_length
    (source,) = config.data.sources
    assert source.to_dict() == {"kind": "prepared", "path": "data/mine"}
