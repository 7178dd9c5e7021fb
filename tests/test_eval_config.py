"""Evaluation configs and the command line of eval.py: what they say is what they do."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tempo_jax.evaluation import config as configs
from tempo_jax.evaluation import model, published, settings
from tempo_jax.evaluation.benchmarks import BENCHMARKS
from tempo_jax.evaluation.results import results
from tempo_jax.utils import config_fields
from tests import benchmark_copies as copies
from tests.eval_runs import FakeTempo, checkpoint

REPO = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (REPO / "configs").glob("eval_*.py"))


def load(name):
    return importlib.import_module(f"configs.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_a_valid_run(name):
    module = load(name)
    config = module.get_config()
    config.data.path = config.data.path or "somewhere"
    configs.check(config)
    assert re.search(rf"python eval\.py --config=configs/{name}\.py(:\w+)? --workdir=", module.__doc__)


def test_every_benchmark_has_a_config():
    assert {load(name).get_config().benchmark for name in NAMES} == set(BENCHMARKS)


@pytest.mark.parametrize("name", ["lvbench", "videomme", "mlvu", "longvideobench"])
def test_settings_are_those_of_the_published_evaluation(name):
    config = load(f"eval_{name}").get_config()
    assert (config.fps, config.min_frames, config.max_frames) == (2.0, 8, (1024,))
    assert config.context_length == 32_768 and config.strategy == ("head",)
    told = {row.accuracy for row in published.rows(name) if row.system == "Tempo 6B" and not row.group}
    assert told <= {float(found) for found in re.findall(r"(\d\d\.\d) %", load(f"eval_{name}").__doc__)}


def test_the_grid_has_each_setting_once():
    config = configs.default()
    config.strategy, config.budget, config.max_frames = ("head,none", "prune-topk"), (4096, 8192), (256, 512)
    grid = settings.grid(config)
    assert len(grid) == len({setting.name for setting in grid}) == 2 * (2 + 1 + 1)
    assert [setting.max_frames for setting in grid] == [256] * 4 + [512] * 4
    assert grid[0].name == "256 frames, head, budget 4096" and grid[2].name == "256 frames, none"


MISTAKES = [
    (["--config.bogus=1"], "the config has no field bogus: the fields are in tempo_jax/evaluation/config.py"),
    (["--config.min_frames=many"], "--config.min_frames=many"),
    (["--config.budget=0"], "config.budget has 0: it must be a whole number of at least 1"),
    (["--config.budget=many"], "config.budget has 'many'"),
    (["--config.budget=()"], "config.budget is empty"),
    (["--config.max_frames=4"], "config.max_frames has 4: it must be a whole number of at least 8"),
    (["--config.strategy=head,tale"], "config.strategy has 'tale': use some of head, tail, random, tome"),
    (["--config.video_cache=all"], "config.video_cache is 'all': use one of vision, prefix"),
    (["--config.dtype=int4"], "config.dtype is 'int4': use one of bfloat16, float32, int8, fp8"),
    (["--config.fps=0"], "config.fps is 0.0: it must be above 0"),
    (["--config.drop_ratio=2"], "config.drop_ratio is 2.0"),
    (["--config.decode_workers=-1"], "config.decode_workers is -1: it must be at least 0"),
    (["--config.benchmark=mvbench"], "config.benchmark is 'mvbench': use one of lvbench, videomme"),
    (["--config.data.path="], "config.data.path is empty: give a folder"),
    (["--config.data.path=s3://b/x"], "config.data.path s3://b/x is in s3:// storage"),
    (["--config.data.path=nowhere"], "There is no folder nowhere"),
    (["--config.data.annotations=x.json"], "has no annotation file of LVBench (looked for x.json)"),
    (["--config.data.videos=x"], "There is no folder of videos"),
    (["--config.checkpoint=nowhere"], "nowhere is not a folder: give a native checkpoint"),
    (["--workdir=s3://bucket/run"], "the workdir s3://bucket/run is in s3:// storage"),
    (["--process=2", "--processes=2"], "--process is 2: it must be from 0 to 1"),
    (["extra"], "'extra' is no flag"),
    (["--config=configs/none.py"], "there is no config file configs/none.py"),
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory, demo_tokenizer_dir):
    root = tmp_path_factory.mktemp("eval")
    checkpoint(root / "model", demo_tokenizer_dir)
    copies.lvbench(root / "lvbench")
    return root


@pytest.fixture
def run(root, monkeypatch, capsys):
    """eval.py with arguments; (exit status, stdout, stderr)."""

    def run(*arguments):
        found = importlib.util.spec_from_file_location("eval_script", REPO / "eval.py")
        script = importlib.util.module_from_spec(found)
        found.loader.exec_module(script)  # afresh: flags remember
        usual = {
            "--config": "configs/eval_lvbench.py",
            "--workdir": root / "work",
            "--config.checkpoint": root / "model",
            "--config.data.path": root / "lvbench",
            "--config.decode_workers": 0,
            "--processes": 1,
            "--process": 0,
            "--report": False,
        }
        given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        words = [argument for argument in arguments if "=" not in argument]
        argv = ["eval.py", *(f"{name}={value}" for name, value in (usual | given).items()), *words]
        monkeypatch.setattr(sys, "argv", argv)  # config_flags looks there as well
        monkeypatch.setattr(model, "load", lambda config: FakeTempo())
        monkeypatch.chdir(REPO)
        status = script.main(argv)
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments, sentence", MISTAKES)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, sentence, run):
    status, out, err = run(*arguments)
    assert status == 2 and out == "" and err.startswith("eval: ") and err.count("\n") == 1
    assert sentence in err


def test_the_command_prints_the_result_and_reports_halves(run, root):
    status, out, err = run()
    assert (status, out) == (2, "") and "1 of 5 videos are missing in " in err
    assert "--config.allow_missing=True" in err and not (root / "work" / "rows").exists()
    allowed = "--config.allow_missing=True"
    status, out, err = run("--process=1", "--processes=2", allowed)
    assert re.search(r"Process 1 finished its part; \d+ answers of the other 1 are missing in ", out)
    assert status == (3 if "not answered" in err else 0)
    status, out, _ = run("--report=True")
    assert "unparseable" in out
    assert "**Incomplete" in (root / "work" / "report.md").read_text()
    status, out, err = run(allowed)
    assert err.startswith("eval: not answered: 1 answer (videos missing), 2 answers (videos not decodable);")
    assert status == 3 and out.endswith(f"The report: {root / 'work' / 'report.md'}\n")
    assert "**Incomplete" not in (root / "work" / "report.md").read_text()
    assert (
        run("--config.budget=64,128", allowed, f"--workdir={root / 'grid'}")[1].count(" tokens per frame")
        == 2
    )


def test_help_tells_the_flags(run):
    status, out, _ = run("--help")
    assert status == 0 and "--workdir" in out and "--config.budget=4096,8192" in out


def test_results_of_nothing_are_no_numbers():
    row = BENCHMARKS["lvbench"]
    setting = settings.Setting(8, "head", 64, 4, 0)
    question = copies_question()
    found = results(row, [question], [setting], {}, {})
    assert found["settings"][0]["score"]["accuracy"] is None and not found["complete"]


def copies_question():
    from tempo_jax.evaluation.annotations import Question

    return Question("q", "v", "p", "ABCD", (), "A", {"task": ("x",)})


def test_the_command_takes_old_names_of_fields(run):
    config_fields.announce.cache_clear()
    status, _, err = run("--config.batch=0", "--config.reuse=all")
    lines = err.splitlines()
    assert status == 2 and len(lines) == 3 and all(line.startswith("Deprecated: ") for line in lines[:2])
    assert "config.video_cache is 'all'" in lines[2] and "config.decode_batch is 0" in lines[2]
