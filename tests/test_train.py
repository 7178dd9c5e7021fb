"""The trainer on one process: it logs, saves, goes on bit for bit, stops with a sentence."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import tempo_jax
from tempo_jax import checkpoint, sharding
from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.evaluation import model as eval_model
from tempo_jax.models import build
from tempo_jax.models.kernels import attention
from tempo_jax.models.layers import REMAT_POLICIES
from tempo_jax.models.presets import TINY
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.tasks import TASKS, TrainLoader, losses, tempo
from tempo_jax.tasks import llm as loss_llm
from tempo_jax.training import config as configs
from tempo_jax.training import device_prefetch, loop, metrics, param_groups, run_state
from tempo_jax.utils.tree import flatten
from tests import tiny_training
from tests.systems import relative
from tests.tiny_training import STEPS, curve, rows

REPO = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    assert tiny_training.train(tiny_model, workdir) == "finished"
    return workdir


def test_it_learns_and_tells(whole):
    found = rows(whole)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert found[-1]["loss"] < found[0]["loss"] - 1
    last = found[-1]
    assert last["mfu"] is None and last["padding_segments"] == 0.25 and last["samples_skipped"] == 1
    assert last["frames_per_second"] > 0 and last["tokens_per_second_per_chip"] > 0
    assert found[0]["step_seconds"] is found[0]["eta_seconds"] is None  # of the first step, which compiles
    assert found[1]["lr"] == pytest.approx(1e-3)  # one step of warm-up
    assert list((whole / "tensorboard").glob("events*"))
    assert json.loads((whole / "config.json").read_text())["steps"] == STEPS


def test_the_model_is_a_native_checkpoint_with_frozen_parts_bit_identical(tiny_model, whole):
    before, after = (flatten(checkpoint.load_params(folder)) for folder in (tiny_model, whole / "model"))
    assert before.keys() == after.keys()
    for path, x in after.items():
        learned = param_groups.group_of(path) in tiny_training.RATES
        assert learned != np.array_equal(x, before[path]), path
    origin = checkpoint.read_model_json(whole / "model", "tempo").origin
    assert origin["step"] == STEPS and origin["config"]["learning_rate"]["llm"] == 1e-3
    assert origin["code"].startswith(tempo_jax.__version__)
    answer = tempo_jax.load(whole / "model").ask(
        np.zeros((4, 32, 32, 3), np.uint8), "What?", max_new_tokens=2
    )
    assert len(answer.token_ids) <= 2


def test_meshes_give_one_curve_and_take_over_from_each_other(tiny_model, whole, tmp_path):
    """(8,1,1) to step 3, from there (2,2,2) and (1,4,2)."""
    expected = np.array(curve(whole))
    first = tmp_path / "8"
    tiny_training.train(tiny_model, first, **{"mesh.data": 8})
    assert relative(curve(first), expected) < 1e-5
    shutil.rmtree(first / "checkpoints" / "6")
    for data, fsdp, tensor in ((2, 2, 2), (1, 4, 2)):
        workdir = tmp_path / f"{data}{fsdp}{tensor}"
        shutil.copytree(first, workdir)
        tiny_training.train(
            tiny_model, workdir, **{"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        )
        assert relative(curve(workdir), expected) < 1e-5


def child(tiny_model, workdir, hook, **changes):
    """The same training in a process of its own."""
    command = tiny_training.command(tiny_model, workdir, hook, changes)
    return subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, timeout=300)


def test_killed_in_a_save_and_in_a_step_it_goes_on_bit_for_bit(tiny_model, whole, tmp_path):
    steps = tmp_path / "checkpoints"

    def whole_steps():
        return sorted(int(folder.name) for folder in steps.iterdir() if folder.name.isdigit())

    killed = child(tiny_model, tmp_path, "kill_in_save")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert list(steps.glob("*tmp*")) and whole_steps() == []
    killed = child(tiny_model, tmp_path, "kill_in_step")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert whole_steps() == [3] and not list(steps.glob("*tmp*"))
    tiny_training.train(tiny_model, tmp_path)
    assert curve(tmp_path) == curve(whole)
    same(tmp_path, whole)


def same(workdir, other):
    """The exported models agree bit for bit."""
    ours, theirs = (flatten(checkpoint.load_params(folder / "model")) for folder in (workdir, other))
    for path, x in ours.items():
        np.testing.assert_array_equal(x, theirs[path], err_msg=path)


def test_a_full_disk_is_said_and_costs_no_earlier_checkpoint(tiny_model, whole, tmp_path):
    full = child(tiny_model, tmp_path, "full_disk")
    assert full.returncode == 2, full.stderr[-3000:]
    assert "disk is full; that of step 3 is intact: free some space" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    warnings = [line for line in full.stderr.splitlines() if "Warning" in line]
    assert all(line.startswith("Warning: config.mesh") for line in warnings), warnings
    tiny_training.train(tiny_model, tmp_path)
    assert curve(tmp_path) == curve(whole)


def test_sigterm_saves_and_stops(tiny_model, whole, tmp_path):
    killed = child(tiny_model, tmp_path, "terminate")
    assert killed.returncode == 143, killed.stderr[-3000:]
    assert "Rerun the same command to resume" in killed.stderr and "Traceback" not in killed.stderr
    tiny_training.train(tiny_model, tmp_path)
    assert curve(tmp_path) == curve(whole)


def test_it_stops_when_nothing_is_finite_any_more(tiny_model, tmp_path):
    params = checkpoint.load_params(tiny_model)
    params["compressor"]["text"]["norm"]["scale"] *= jnp.nan
    found = checkpoint.read_model_json(tiny_model)
    tokenizer = checkpoint.tokenizer_path(tiny_model)
    checkpoint.save(tmp_path / "broken", found.kind, found.config, params, tokenizer)
    with pytest.raises(TempoError, match="3 steps in a row, up to step 3, were non-finite"):
        tiny_training.train(tmp_path / "broken", tmp_path / "run", max_nonfinite_steps=3)
    assert [(row["loss"], row["skipped"]) for row in rows(tmp_path / "run")] == [
        (None, 1),
        (None, 2),
        (None, 3),
    ]


def test_another_run_in_the_same_folder_is_refused(tiny_model, whole):
    with pytest.raises(TempoError, match=r"other settings \(learning_rate.llm was 0.001 and is 0.002\)"):
        tiny_training.train(tiny_model, whole, **{"learning_rate.llm": 2e-3})


def test_what_may_differ_when_a_run_goes_on(tiny_model):
    source = {"kind": "prepared", "path": "here", "weight": 1.0}
    config = tiny_training.config(tiny_model)
    config.data.sources = (ConfigDict(source),)
    saved = configs.to_json(config)
    config.update({"steps": 7, "remat": "none", "init": {"checkpoint": "elsewhere"}, "mesh": {"tensor": 2}})
    config.data.sources = (ConfigDict({**source, "path": "there"}),)
    configs.check_same_run(saved, config, "w")
    config.data.sources = (ConfigDict({**source, "weight": 2.0}),)
    with pytest.raises(TempoError, match=r"data.sources.0.weight was 1.0 and is 2.0"):
        configs.check_same_run(saved, config, "w")


def test_a_run_older_than_a_field_goes_on_with_its_default(tiny_model):
    config = tiny_training.config(tiny_model)
    saved = configs.to_json(config)
    del saved["optimizer"]["kind"]
    configs.check_same_run(saved, config, "w")
    config.optimizer.kind = "muon"
    with pytest.raises(TempoError, match=r"optimizer.kind was 'adamw' and is 'muon'"):
        configs.check_same_run(saved, config, "w")


def test_the_model_can_be_exported_any_time(tiny_model, whole, tmp_path):
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(whole / "frozen", tmp_path / "frozen")
    loop.export(tiny_training.config(tiny_model), tmp_path)
    same(tmp_path, whole)
    with pytest.raises(TempoError, match="holds no checkpoint: train first"):
        loop.export(tiny_training.config(tiny_model), tmp_path / "nothing")


def test_devices_that_a_mesh_leaves_out_are_told_or_refused(tiny_model, capsys):
    def made(make, **sizes):
        return make(tiny_training.config(tiny_model, **{f"mesh.{axis}": n for axis, n in sizes.items()}))

    def of_evaluation(config):
        return eval_model.mesh(dict(config.mesh))

    for make in (run_state.make_mesh, of_evaluation):
        assert made(make, fsdp=-1).size == 8 and not capsys.readouterr().err
        assert made(make, data=3, fsdp=2).size == 6
        assert capsys.readouterr().err == (
            "Warning: config.mesh.data=3, config.mesh.fsdp=2, config.mesh.tensor=1 takes 6 of 8 devices; -1 "
            "for one axis takes the others as well\n"
        )
        with pytest.raises(
            TempoError, match=r"mesh\.fsdp=-1 cannot take what config\.mesh\.data=3 leaves of 8"
        ):
            made(make, data=3, fsdp=-1)
        with pytest.raises(TempoError, match="takes 16 devices"):
            made(make, data=16, fsdp=-1)
    assert made(of_evaluation, fsdp=1) is None


def test_rows_that_do_not_divide_are_placed_all_the_same(tiny_model):
    config = tiny_training.config(tiny_model, **{"batch.shards": 3})
    layout = device_prefetch.BatchSharding(config, sharding.make_mesh(data=2, fsdp=2))
    assert layout.undivided_rows == [3] and layout.shards == [0, 1, 2]
    placed = layout._place(np.arange(6).reshape(1, 3, 2), jax.P(None, ("data", "fsdp")))
    np.testing.assert_array_equal(placed, np.arange(6).reshape(1, 3, 2))
    config = tiny_training.config(tiny_model, **{"batch.shards": 2, "batch.segments": 1})
    assert device_prefetch.BatchSharding(config, sharding.make_mesh(data=2)).undivided_rows == []
    assert device_prefetch.BatchSharding(config, sharding.make_mesh(data=2, tensor=2)).undivided_rows == [
        2
    ], "a pool is read by all chips"


def test_rematerialisation_changes_no_gradient():
    """Of a decoder, every kind; tests/test_training.py has the whole system."""
    config = tiny_training.architecture(64).llm
    params = build.parameters(build.init(config))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 24)))

    def gradients(remat):
        def total(params):
            model = build.build(config, params)
            places = jnp.broadcast_to(jnp.arange(24), ids.shape)
            return losses.cross_entropy(model.logits, model(model.embed(ids), places, remat=remat), ids).total

        gradient = jax.grad(total)
        return flatten(jax.jit(gradient)(params)), str(jax.make_jaxpr(gradient)(params))

    kept, plain = gradients("none")
    for remat in REMAT_POLICIES.keys() - {"none"}:
        found, program = gradients(remat)
        assert program.count("dot_general") > plain.count("dot_general")  # something is computed again
        for path, x in found.items():
            scale = np.abs(kept[path]).max()
            np.testing.assert_allclose(x, kept[path], rtol=0, atol=1e-5 * scale + 1e-12, err_msg=path)


# Without training


def test_the_feed_runs_ahead_but_states_belong_to_their_batch(tiny_model):
    """Of the real pipeline: after the state of batch 2 comes batch 3, and lies on the mesh as it should."""
    config = tiny_training.config(tiny_model, **{"batch.shards": 2})
    reel = {"kind": "minireel", "seconds": 8, "size": 32, "count": 20, "forms": {"text": 1.0}}
    config.data.update({"sources": (ConfigDict(reel),), "packing_window": 4, "threads": 1})
    config.batch.update({"segments": 8, "compressor_length": 512, "sequences": 2, "sequence_length": 512})
    found = checkpoint.read_model_json(tiny_model).config
    tokenizer = Tokenizer(checkpoint.tokenizer_path(tiny_model))
    layout = device_prefetch.BatchSharding(config, sharding.make_mesh(data=2))
    assert layout.shards == layout.owned == [0, 1]
    with device_prefetch.DevicePrefetcher(
        TrainLoader(config, tokenizer, found, layout.shards), layout
    ) as fed:
        _, second, third = (next(fed) for _ in range(3))
    again = TrainLoader(config, tokenizer, found, layout.shards)
    again.set_state(json.loads(json.dumps(second.states)))
    with device_prefetch.DevicePrefetcher(again, layout) as fed:
        repeated = next(fed)
    for ours, theirs, placed in zip(*map(jax.tree.leaves, (repeated.host, third.host, third.device))):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(placed, theirs)
        axis = 2 if theirs.ndim == 4 and theirs.shape[1] == 3 else 1
        assert placed.sharding.shard_shape(placed.shape)[axis] == theirs.shape[axis] // 2


def test_a_killed_reader_is_a_sentence(tiny_model):
    """By grain's own words for it; benchmarks/training_faults.py has the two processes."""

    class Killed:
        def __next__(self):
            raise RuntimeError(
                "Worker process was terminated unexpectedly with exit code -9. Search the logs."
            )

        def close(self):
            pass

    config = tiny_training.config(tiny_model)
    told = pytest.raises(TryAgain, match=r"ended with exit code -9 .*config\.data\.workers=0")
    with (
        device_prefetch.DevicePrefetcher(
            Killed(), device_prefetch.BatchSharding(config, sharding.make_mesh())
        ) as fed,
        told as caught,
    ):
        next(fed)
    assert caught.value.status == 75


def test_everything_wrong_with_a_config_is_said_at_once(tiny_model):
    changes = {"steps": 0, "learning_rate.llm": -1.0, "task": "dance", "mesh.data": -1, "mesh.fsdp": -1}
    with pytest.raises(TempoError) as caught:
        configs.check(tiny_training.config(tiny_model, **changes))
    for part in (
        "config.task is 'dance'",
        "config.steps is 0",
        "config.learning_rate.llm is -1",
        "more than one -1",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--config.bogus=1"], "the config has no field bogus"),
        (["--config.learning_rate.bogus=1"], "the config has no field bogus"),
        (["--config.steps=many"], "--config.steps=many"),
        (["--bogus=1"], "Unknown command line flag 'bogus'"),
        (["bogus"], "'bogus' is no flag"),
        (["--config.mesh.data=1000"], "takes 1000 devices"),
        (["--workdir=s3://bucket/run"], "s3://bucket/run is in s3:// storage"),
        (["--config.init.llm=s3://bucket/llm"], "config.init.llm s3://bucket/llm is in s3:// storage"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, sentence, tmp_path, capsys, monkeypatch):
    import train

    train.flags.FLAGS.unparse_flags()
    where = [f"--config={REPO / 'configs/tiny_stage0.py'}", f"--workdir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *where, *arguments])  # config_flags looks there as well
    assert train.main(sys.argv) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.startswith("train: ") and told.count("\n") == 1


def test_the_log_takes_back_what_comes_after_the_restored_step(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    with metrics.MetricsLogger(tmp_path, 2):
        assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_the_clock():
    assert metrics.format_duration(59.6) == "00:01:00" and metrics.format_duration(90_061) == "1 d 01:01:01"


def test_flops_agree_with_the_compiler(monkeypatch):
    """Of a forward pass without logits, with one layer each, since XLA counts a scan's body once."""
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_heads": 4}
    decoder = {**wide, "num_kv_heads": 2, "head_dim": 64, "num_layers": 1, "vocab_size": 1024}
    text = dataclasses.replace(TINY.compressor.text, mrope_sections=(16, 8, 8), **decoder)
    vision = dataclasses.replace(
        TINY.compressor.vision, depth=1, deepstack_layers=(0,), out_hidden_size=256, **wide
    )
    compressor = dataclasses.replace(TINY.compressor, vision=vision, text=text)
    config = dataclasses.replace(TINY, compressor=compressor, llm=dataclasses.replace(TINY.llm, **decoder))
    pool, row_length, conversations, length = 2, 256, 2, 512

    def array(*sizes, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((1, *sizes), dtype)

    row, text = (pool, row_length), (conversations, length)
    batch = tempo.Batch(
        array(pool, 8, 64, 64, 3, dtype=jnp.uint8), PromptBatch(array(*row), array(*row), array(3, *row)),
        array(pool), array(*text), array(*text), array(*text), array(*text),
    )  # fmt: skip
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    forward = lambda params, batch: tempo.forward(build.build(config, params), batch, remat="none")  # noqa: E731
    monkeypatch.setattr(attention, "CPU_BLOCK", 10**9)  # no blocks of the causal half
    with jax.set_mesh(sharding.make_mesh()):  # attention without a loop over rows
        counted = jax.jit(forward).lower(build.shapes(config), one).cost_analysis()["flops"]
    # Whole score matrices are multiplied here, where ours counts the causal half.
    parts = list(TASKS["tempo"].flops(config, batch))
    whole = sum(part.weights + part.scores * (1 if part.group == "vision" else 2) for part in parts)
    head = 2 * conversations * length * config.llm.hidden_size * config.llm.vocab_size
    assert whole - head == pytest.approx(counted, rel=0.05)
    once = sum(part.weights + part.scores for part in parts)
    assert TASKS["tempo"].step_flops(config, batch, {}) == once
    # Where everything learns the backward pass is two more of them; the LLM alone pays for itself.
    assert TASKS["tempo"].step_flops(
        config, batch, dict.fromkeys(param_groups.TRAINABLE_GROUPS, 1.0)
    ) == pytest.approx(3 * once)
    llm = parts[-1]
    alone = TASKS["tempo"].step_flops(config, batch, {"llm": 1.0})
    assert alone == pytest.approx(once + 2 * (llm.weights + llm.scores))


def test_logits_count_in_the_chunks_that_have_labels():
    """losses.cross_entropy makes them chunk by chunk as long as any row has labels."""
    labels = np.full((2, 3, 1024), IGNORE)
    labels[0, 1, :600] = 1
    labels[1, 2, 1000] = 1

    def weights(labels):
        batch = loss_llm.Batch(labels, labels, labels)
        return next(TASKS["llm"].flops(TINY.llm, batch)).weights

    nothing = np.full_like(labels, IGNORE)
    places = 3 * losses.CHUNK * (-(-600 // losses.CHUNK) + 1)
    assert weights(labels) - weights(nothing) == 2 * places * TINY.llm.hidden_size * TINY.llm.vocab_size
