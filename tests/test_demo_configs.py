"""The demo model's lessons: each is a valid run, follows one before it, and its data fit its batches."""

import importlib
import re
from pathlib import Path

import pytest

from tempo_jax.data.batch_packing import BatchShape, capacity_problem
from tempo_jax.data.sources import open_source
from tempo_jax.models.presets import PRESETS
from tempo_jax.tasks import TASKS
from tempo_jax.training import config as configs

FOLDER = Path(__file__).resolve().parent.parent / "configs"
LESSONS = ("see", "ask", "note", "note_long", "stage0", "stage1", "stage3")
SAMPLES = 24
PART = {
    "tempo": lambda model: model,
    "align": lambda model: model,
    "compressor": lambda model: model.compressor,
    "llm": lambda model: model.llm,
}


def load(lesson):
    return importlib.import_module(f"configs.demo_{lesson}")


def test_every_lesson_is_tested():
    assert {path.stem for path in FOLDER.glob("demo_*.py")} == {f"demo_{lesson}" for lesson in LESSONS}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_follows_one_before_it(lesson):
    config, doc = load(lesson).get_config(), load(lesson).__doc__
    configs.check(config)
    number = LESSONS.index(lesson) + 1
    assert doc.startswith(f"Demo model, phase {number} of {len(LESSONS)}")
    assert f"python train.py --config=configs/demo_{lesson}.py --workdir=build/demo/{lesson}" in doc
    sources = [source for source in config.init.values() if source and source != "minireel"]
    before = [re.fullmatch(r"build/demo/(\w+)/model", source)[1] for source in sources]
    assert all(name in LESSONS[: number - 1] for name in before)
    assert before or lesson in ("see", "note")


@pytest.mark.parametrize("lesson", LESSONS)
def test_nearly_all_samples_fit(lesson, tokenizer):
    """What does not fit is skipped, and a lesson of which nothing fits would never begin."""
    config = load(lesson).get_config()
    batch, model = config.batch, PART[config.task](PRESETS[config.model])
    shape = BatchShape(batch.segments, batch.compressor_length, batch.sequences, batch.sequence_length)
    for source in map(open_source, config.data.sources):
        samples = [sample for index in range(SAMPLES) if (sample := source[index * 7])]
        refused = [
            capacity_problem(TASKS[config.task].sample_size(sample, tokenizer, model), shape)
            for sample in samples
        ]
        assert sum(map(bool, refused)) <= len(samples) // 8, set(refused)
