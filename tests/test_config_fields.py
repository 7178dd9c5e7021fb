"""Old names of config fields go on working: on the command line, in stored configs and in users' files."""

import copy

import pytest

from tempo_jax.data.sources import open_source
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import config as eval_configs
from tempo_jax.training import config as configs
from tempo_jax.training import param_groups
from tempo_jax.utils import config_fields

TABLES = {"train": configs.default, "eval": eval_configs.default}


@pytest.fixture(autouse=True)
def announced():
    config_fields.announce.cache_clear()


@pytest.mark.parametrize("name", TABLES)
def test_every_new_name_is_a_field_and_no_old_one_is(name):
    config = TABLES[name]()
    for old, new in config_fields.RENAMED[name].items():
        section, _, field = new.rpartition(".")
        node = config[section] if section else config
        assert field in list(node) and old.rpartition(".")[2] not in list(node)


def test_the_command_line_takes_old_names_and_says_the_new_one_once(capsys):
    table = config_fields.RENAMED["train"]
    argv = ["train.py", "--config.rates.svlm=1e-3", "--config.batch.pool=4", "--config.rates.svlm=2e-3"]
    argv += ["--config.optimiser.final_ratio=0.1", "--config.task=svlm", "--workdir=rates", "--config=a.py"]
    assert config_fields.current_arguments(argv, table) == [
        "train.py", "--config.learning_rate.compressor=1e-3", "--config.batch.segments=4",
        "--config.learning_rate.compressor=2e-3", "--config.optimizer.final_lr_fraction=0.1",
        "--config.task=compressor", "--workdir=rates", "--config=a.py",
    ]  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        "Deprecated: config.rates.svlm is now config.learning_rate.compressor; the old name still works."
    )


def test_a_users_config_file_may_use_old_names(capsys):
    for config in (configs.default(), copy.deepcopy(configs.default())):
        config.rates.update({"svlm": 1e-3})
        config.rates.llm = 2e-3
        config["optimiser"].final_ratio = 0.5
        config.batch.update(pool=3, row_length=5)
        config.max_not_finite = 7
        config.task = "svlm"
        assert config.learning_rate.compressor == 1e-3 and config.learning_rate.llm == 2e-3
        assert config.optimizer.final_lr_fraction == config.rates.get("projector", 0) + 0.5
        assert (config.batch.segments, config.batch.compressor_length, config.batch.pool) == (3, 5, 3)
        assert config.max_nonfinite_steps == 7 and config.task == "compressor"
        assert set(config) == set(configs.default()) and "rates" in config
    assert "config.batch.pool is now config.batch.segments" in capsys.readouterr().err


def test_a_field_that_nothing_reads_is_refused():
    config = configs.default()
    config.keep = 5
    with pytest.raises(TempoError, match="config has no field keep: it may have"):
        configs.check(config)
    config = eval_configs.default()
    config.benchmark, config.data.folder = "lvbench", "x"
    with pytest.raises(TempoError, match=r"config\.data has no field folder"):
        eval_configs.check(config)


def test_a_run_that_was_stored_under_old_names_is_resumed(tmp_path):
    config = configs.default()
    config.task, config.model, config.learning_rate.compressor = "compressor", "demo", 1e-3
    config.data.sources = (
        {"kind": "minireel_evidence_text", "count": 9, "num_distractors": 4, "max_repeats": 16},
    )
    stored = configs.to_json(config)
    stored["rates"] = stored.pop("learning_rate")
    stored["rates"]["svlm"] = stored["rates"].pop("compressor")
    stored["optimiser"] = stored.pop("optimizer")
    stored["optimiser"]["final_ratio"] = stored["optimiser"].pop("final_lr_fraction")
    stored["batch"]["pool"] = stored["batch"].pop("segments")
    stored["task"] = "svlm"
    stored["data"]["sources"] = [{"kind": "minireel_noted", "count": 9, "spare": 4, "slots": 16}]
    configs.check_same_run(stored, config, tmp_path)
    stored["rates"]["svlm"] = 2e-3
    with pytest.raises(TempoError, match=r"learning_rate\.compressor was 0\.002 and is 0\.001"):
        configs.check_same_run(stored, config, tmp_path)
    now = eval_configs.resume_key(eval_configs.default())
    saved = {{"decode_batch": "batch"}.get(name, name): value for name, value in now.items()}
    eval_configs.check_same_run(saved, now, tmp_path)


def test_sources_take_the_old_names_of_kinds_and_fields():
    old = open_source({"kind": "minireel_noted", "count": 3, "spare": 2, "slots": 4, "turns": 2})
    new = open_source(
        {"kind": "minireel_evidence_text", "count": 3, "num_distractors": 2, "max_repeats": 4, "max_turns": 2}
    )
    assert old == new and old[0].conversation == new[0].conversation


def test_checkpoints_and_logs_know_groups_and_fields_by_their_first_names():
    import jax.numpy as jnp

    from tempo_jax.training import checkpoints, optimizer, step

    assert param_groups.group_of("compressor/text/norm/scale") == "compressor"
    trainable = {"compressor/text/norm/scale": jnp.ones(2), "projector/a/kernel": jnp.ones((2, 2))}
    rates = {"compressor": 1e-3, "projector": 1e-3}
    tx = optimizer.make_optimizer(optimizer.OptimizerConfig(rates, steps=4), trainable)
    names, _ = checkpoints.leaf_names(step.init_state(trainable, tx))
    assert "learning/compressor/text/norm/scale" in names
    assert {name.split("/")[0] for name in names} == {"learning", "optimiser", "step", "skipped"}
    groups = {name.split("inner_states/")[1].split("/")[0] for name in names if "inner_states" in name}
    assert groups == {"svlm", "projector"}
