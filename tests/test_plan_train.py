"""What is planned is what is trained: one computation, on the same mesh."""

import jax
import pytest

from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.plan import programs
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import TASKS
from tempo_jax.training import run_state
from tests import tiny_training
from tests import xcomp_systems as tiny

STAGES = ("demo_stage1", "demo_stage0", "demo_see", "demo_note")  # tasks tempo, align, svlm, llm


def test_the_planned_step_is_the_one_that_training_jits(tiny_model, tmp_path):
    config = tiny_training.config(tiny_model, **{"mesh.fsdp": 2, "remat": "full"})
    with run_state.open_run(config, tmp_path) as opened:
        parts = config, Tokenizer(opened.tokenizer_folder), opened.model.config, opened.layout.shards
        batch = opened.layout.place(next(tiny_training.Batches(*parts)))
        trained = opened.run_step.lower(opened.state, opened.frozen, batch)
        mesh, found = programs.make_programs(config, jax.devices()[:2])
        (program,) = found
        planned = program.lower()
    assert mesh == opened.mesh
    assert planned.as_text() == trained.as_text()
    assert planned.in_tree == trained.in_tree


@pytest.mark.parametrize(
    ("name", "model"), [*((name, "demo") for name in STAGES), ("xcomp_2b_sct", "xcomp-2b")]
)
def test_batches_of_every_task_have_shapes(name, model):
    """Nothing of them is traced here: their FLOPs are counted, which reads every shape."""
    config = programs.read_config(f"configs/{name}.py", [f"model={model}"])
    mesh, found = programs.make_programs(config, jax.devices()[:1])
    with jax.set_mesh(mesh):
        (program,) = found
    assert program.flops > 0 and program.tokens > 0 and 0 < program.label_fraction <= 1
    assert type(program.args[2]) in {task.batch for task in TASKS.values()}


def test_xcomp_is_planned_with_the_batches_it_collates(tokenizer):
    """Kinds of numbers and shapes, leaf by leaf; and no traceback for a task's wrong model."""
    shape = BatchShape(2, 96, 2, 1, (40, 48))
    talk = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a ball"}]
    made = TASKS["xcomp"].collate([Sample(tiny.moving(16), 2.0, talk)], tokenizer, tiny.MICRO, shape)
    planned = TASKS["xcomp"].abstract_batch(tiny.MICRO, shape, tiny.MICRO.clip_frames, 1, 1)
    for name, ours, theirs in zip(made._fields, planned, made, strict=True):
        assert (ours.shape, ours.dtype) == ((1, *theirs.shape), theirs.dtype), name
    config = programs.read_config("configs/xcomp_2b_sct.py", ["model=demo"])
    _, found = programs.make_programs(config, jax.devices()[:1])
    with pytest.raises(TempoError, match="is no xcomp model"):
        next(found)
