"""What a search of the planner tries, with a planner whose answers are known."""

from types import SimpleNamespace

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.plan import calibration, compile, programs, search, topology

MEMORY = {
    "dots": 60,
    "attention,attention,dots": 50,
    "attention": 40,
    "attention,full,attention": 30,
    "full": 20,
}
AGAIN = {"dots": 5, "attention,attention,dots": 3, "attention": 4, "attention,full,attention": 6, "full": 8}


def answers(hbm, best_fsdp=32, best_tensor=1):
    """A plan whose time has its least at one mesh, and whose memory goes with rows, remat and fsdp."""

    def plan(config, where):
        mesh = config.mesh
        far = abs(mesh.fsdp.bit_length() - best_fsdp.bit_length()) + 10 * abs(mesh.tensor - best_tensor)
        rows = config.batch.shards if "batch" in config else 0
        again = AGAIN[config.remat] if rows else 0
        used = (MEMORY[config.remat] if rows else 0) + rows // 4 + 640 // mesh.fsdp // mesh.tensor
        refusal = "does not fit" if used > hbm else None
        finding = SimpleNamespace(
            name="train step", mfu=0.5, hbm_bytes=used, chip=SimpleNamespace(hbm=hbm), oom=refusal
        )
        return SimpleNamespace(
            topology=where,
            training="ask" not in config,
            fits=refusal is None,
            seconds=far + again - rows / 1000,
            reports=(finding,),
        )

    return plan


def searched(monkeypatch, config, where, plan, jobs=1):
    monkeypatch.setattr(compile, "plan", plan)
    lines = []
    trials = search.search(config, where, lines.append, jobs)
    assert sum("to compile" not in line for line in lines) == len(trials)
    return trials


def stage(number, *changes):
    return programs.read_config(f"configs/tempo_6b_stage{number}.py", list(changes))


def test_a_step_keeps_its_samples_and_uses_all_chips_evenly(monkeypatch):
    where = topology.parse("v5p:2x2x2", slices=2)
    trials = searched(monkeypatch, stage(2), where, answers(hbm=1000))
    tried = [trial.overrides for trial in trials]
    assert {c["batch.shards"] * c["batch.micro_batches"] for c in tried} == {128}
    assert {c["mesh.data"] * c["mesh.fsdp"] * c["mesh.tensor"] for c in tried} == {where.devices}
    assert all(c["mesh.data"] % 2 == 0 for c in tried), "weights are shared within a slice"
    assert {c["mesh.tensor"] for c in tried} == {1, 2, 4, 8}
    assert {c["remat"] for c in tried} == set(search.REMAT_OF_THREE)
    assert {c["batch.shards"] for c in tried} == {32, 64, 128}
    assert len(tried) < 20


@pytest.mark.parametrize("fsdp", [4, 16, 32, 64])
def test_each_choice_goes_on_from_the_best_of_the_last(monkeypatch, fsdp):
    where = topology.parse("v5p:4x4x4")
    best = searched(monkeypatch, stage(3), where, answers(1000, best_fsdp=fsdp))[0]
    assert best.overrides == {
        "mesh.data": 64 // fsdp, "mesh.fsdp": fsdp, "mesh.tensor": 1, "remat": "attention,attention,dots",
        "batch.shards": 64, "batch.micro_batches": 1,
    }  # fmt: skip


def test_what_does_not_fit_comes_last(monkeypatch):
    where = topology.parse("v5p:4x4x4")
    trials = searched(monkeypatch, stage(3), where, answers(hbm=20 + 35 + 16))
    assert trials[0].overrides["remat"] == "attention,full,attention"
    works = [trial.works for trial in trials]
    assert works == sorted(works, reverse=True) and not works[-1]
    assert search.format_trials(trials, where).startswith(f"v5p:4x4x4: {sum(works)} of {len(works)} fit")


def test_trials_show_the_calibrated_step_time_too(monkeypatch):
    where = topology.parse("v5p:4x4x4")
    trials = searched(monkeypatch, stage(3), where, answers(1000))
    ratio = calibration.correction("v5p").ratio
    first = trials[0].plan.seconds
    assert f": {first:.3g} s (calibrated {first * ratio:.3g} s), MFU 50.0%" in search.format_trial(trials[0])


def test_rows_are_halved_where_nothing_else_fits(monkeypatch):
    where = topology.parse("v5p:4x4x4")
    trials = searched(monkeypatch, stage(3), where, answers(hbm=20 + 8 + 12))
    assert trials[0].works and trials[0].overrides["batch.micro_batches"] == 2
    assert {t.overrides["mesh.tensor"] for t in trials if t.works} == {2, 4, 8}, "32 rows for 64 chips"


def test_a_search_in_which_nothing_fits_ends(monkeypatch):
    trials = searched(monkeypatch, stage(3), topology.parse("v5p:4x4x4"), answers(hbm=1))
    assert not any(trial.works for trial in trials)
    assert {trial.overrides["remat"] for trial in trials} == {"full"}, "nothing takes less memory"


def test_tasks_of_fewer_stacks_have_one_rematerialisation(monkeypatch):
    config = stage(2, "task=align")
    trials = searched(monkeypatch, config, topology.parse("v5p:2x2x2"), answers(hbm=1000))
    assert {trial.overrides["remat"] for trial in trials} == set(search.REMAT)


def test_compiling_side_by_side_tries_the_same(monkeypatch):
    where = topology.parse("v5p:4x4x4")
    one, four = (searched(monkeypatch, stage(3), where, answers(1000), jobs) for jobs in (1, 4))
    assert {search._key(t.overrides) for t in one} == {search._key(t.overrides) for t in four}
    assert one[0].overrides == four[0].overrides


def test_rows_that_no_mesh_divides_are_a_sentence(monkeypatch):
    with pytest.raises(TempoError, match="equal parts of 3 rows: choose"):
        searched(monkeypatch, stage(3, "batch.shards=3"), topology.parse("v5p:4x4x4"), answers(1000))


def test_weights_are_shared_in_whole_tiles_first():
    """2560 over 64 chips makes 40 rows, which are not whole tiles of 16; over 32 they are."""
    where = topology.parse("v5p:4x4x4")
    assert search.fsdp_sizes(stage(3), where, 1) == [32, 64, 16, 8, 4, 2, 1]
    assert search.fsdp_sizes(stage(3), where, 4) == [16, 8, 4, 2, 1]


def test_asking_splits_weights_only_where_they_do_not_fit(monkeypatch):
    config, where = programs.read_config("configs/ask_6b.py", []), topology.parse("v5e:2x4")
    fits = searched(monkeypatch, config, where, answers(hbm=1000))
    assert [tuple(trial.overrides.values()) for trial in fits] == [(8, 1, 1), (4, 1, 2), (2, 1, 4), (1, 1, 8)]
    tight = searched(monkeypatch, config, where, answers(hbm=79))
    assert all(trial.overrides["mesh.fsdp"] > 1 for trial in tight if trial.works)
