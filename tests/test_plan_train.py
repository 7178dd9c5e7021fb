"""What is planned is what is trained: one computation, on the same mesh."""

import jax
import pytest

from tempo_jax import cli_plan
from tempo_jax.plan import programs
from tempo_jax.prompts import Tokenizer
from tempo_jax.training import flops, run
from tests import tiny_training

STAGES = ("demo_stage1", "demo_stage0", "demo_see", "demo_llm")  # tasks tempo, align, svlm, llm


def test_the_planned_step_is_the_one_that_training_jits(tiny_model, tmp_path):
    config = tiny_training.config(tiny_model, **{"mesh.fsdp": 2, "remat": "full"})
    with run.opened(config, tmp_path) as opened:
        parts = config, Tokenizer(opened.tokenizer_folder), opened.model.config, opened.layout.shards
        batch = opened.layout.place(next(tiny_training.Batches(*parts)))
        trained = opened.run_step.lower(opened.state, opened.frozen, batch)
        mesh, found = programs.of(config, jax.devices()[:2])
        (program,) = found
        planned = program.lower()
    assert mesh == opened.mesh
    assert planned.as_text() == trained.as_text()
    assert planned.in_tree == trained.in_tree


@pytest.mark.parametrize("name", STAGES)
def test_batches_of_every_task_have_shapes(name):
    """Nothing of them is traced here: their FLOPs are counted, which reads every shape."""
    config = cli_plan.read_config(f"configs/{name}.py", ["model=demo"])
    mesh, found = programs.of(config, jax.devices()[:1])
    with jax.set_mesh(mesh):
        (program,) = found
    assert program.flops > 0 and program.tokens > 0 and 0 < program.labels <= 1
    assert type(program.args[2]) in flops.PARTS
