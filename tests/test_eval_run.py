"""Runs of a stand-in model: reuse, resuming, sharing, order, failures, grids; and what the report says."""

import itertools
import json
import random
import signal
import subprocess
import sys

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations, model, report, rows
from tempo_jax.evaluation.runner import Run
from tempo_jax.tempo.options import Options
from tests import benchmark_copies as copies
from tests.eval_runs import REPO, FakeTempo, checkpoint, config_of, evaluate

BROKEN = {
    "missing": "There is no video missing",
    "cut": "is cut short",
    "empty": "is empty (0 bytes)",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory, demo_tokenizer_dir):
    """A copy of each benchmark, and a checkpoint as far as it is looked at."""
    root = tmp_path_factory.mktemp("eval")
    checkpoint(root / "model", demo_tokenizer_dir)
    for name, write in copies.WRITERS.items():
        write(root / name)
    return root


@pytest.fixture
def fake(monkeypatch):
    """The stand-in that is loaded; `made` are all there were."""
    made = []

    def load(config):
        made.append(FakeTempo())
        return made[-1]

    monkeypatch.setattr(model, "load", load)
    return made


def run(root, workdir, name="lvbench", **changes):
    """An evaluation to its end; results and Markdown above the seconds."""
    evaluate(config_of(name, root / name, root / "model", **changes), workdir)
    return reported(workdir)


def reported(workdir):
    text = (workdir / "report.md").read_text("utf-8")
    return json.loads((workdir / "report.json").read_text("utf-8"))["results"], text.split(
        report.SECONDS_HEADING
    )[0]


def by_question(workdir):
    return {row["question"]: row for row in rows.read(workdir).values()}


@pytest.mark.parametrize("name", copies.WRITERS)
def test_each_benchmark_runs_and_broken_videos_are_no_answers_and_listed(name, root, tmp_path, fake):
    results, text = run(root, tmp_path, name)
    (setting,) = results["settings"]
    assert results["complete"] and setting["all"]["questions"] == 4 and setting["failed"] == 3
    assert results["unanswered"] == {"missing": 1, "undecodable": 2, "refused": 0}
    assert setting["if_wrong"] | {"right": 0, "questions": 7} == setting["if_wrong"] | {"right": 0}
    assert "Not answered: 1 answer (videos missing), 2 answers (videos not decodable)" in text
    assert len(results["failures"]) == 3
    for bad in results["failures"]:
        stem = bad["video"].split(".")[0]
        assert BROKEN[stem] in bad["reason"]
        assert bad["reason"] in text and bad["answers"] == 1
    failed = [row for row in by_question(tmp_path).values() if row["failure"]]
    assert len(failed) == 3 and not any(row["right"] or row["prediction"] for row in failed)
    whys = {row["video"].split(".")[0]: row["unanswered"] for row in failed}
    assert whys == {"missing": "missing", "cut": "undecodable", "empty": "undecodable"}
    answered = [row for row in by_question(tmp_path).values() if not row["failure"]]
    assert setting["all"]["right"] == sum(row["right"] for row in answered)
    assert all(row["frames"] == 8 and row["seconds"]["compress"] == 0.5 for row in answered)
    for heading in results["settings"][0]["groups"]:
        assert f"## By {heading}" in text


def test_a_video_is_opened_once_for_all_its_questions(root, tmp_path, fake):
    run(root, tmp_path, budget=(64, 128), strategy=("head", "none"))
    (tempo,) = fake
    assert sorted(tempo.opened) == [("one.mp4", 8), ("two.mp4", 8)]
    assert len(tempo.asked) == 4 * 3  # none has no use for two budgets
    batches = [list(some) for _, some in itertools.groupby(tempo.together)]
    assert [len(batch) for batch in batches] == [3, 3]  # the settings of the same questions side by side
    assert [len(batch[0]) for batch in batches] == [2, 2]  # both questions of a video together


@pytest.mark.parametrize("batch, sizes", [(1, [1] * 8), (3, [2] * 4), (4, [2] * 4)])
def test_settings_are_decoded_apart_and_as_many_answers_as_asked_for(batch, sizes, root, tmp_path, fake):
    run(root, tmp_path, batch=batch, strategy=("head", "tail"))
    assert [len(some) for some in fake[0].together] == sizes
    assert all(len({video for video, _ in some}) == 1 for some in fake[0].together)


@pytest.mark.parametrize("batch, sizes", [(1, [1] * 4), (3, [2, 2]), (4, [4])])
def test_answers_about_several_videos_are_decoded_together(batch, sizes, root, tmp_path, fake):
    run(root, tmp_path, batch=batch)
    assert [len(some) for some in fake[0].together] == sizes


def test_settings_reach_the_model(root, tmp_path, fake):
    strategies = ("head", "prune-lastk", "none")
    run(root, tmp_path, strategy=strategies, min_tokens=(1,), max_tokens=(8,), seed=3, batch=1)
    told = [options for _, _, options in fake[0].asked[:3]]
    limits = {"min_tokens": 1, "max_tokens": 8}
    always = {"max_new_tokens": 16, "seed": 3}
    assert told == [
        Options(strategy="head", budget=8192, **limits, **always),
        Options(compress=False, **always),
        Options(strategy="prune-lastk", drop_ratio=0.5, **limits, **always),
    ]


@pytest.mark.parametrize("changes", [{"decode_workers": 2}, {"video_cache": "prefix", "chunk_segments": 2}])
def test_what_is_free_changes_no_result(changes, root, tmp_path, fake):
    assert run(root, tmp_path / "a") == run(root, tmp_path / "b", **changes)


def test_a_killed_run_goes_on_to_the_same_report(root, tmp_path, fake):
    whole = run(root, tmp_path / "whole")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.eval_runs", str(root / "lvbench"), str(killed), "4"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert (killed / "rows" / "0.jsonl").read_bytes().endswith(b'"half a li')
    assert len(rows.read(killed)) == 4 and not (killed / "report.json").exists()
    assert run(root, killed) == whole
    assert (killed / "rows" / "0.jsonl").read_bytes().count(b"\n") == 7
    fake.clear()
    assert run(root, killed) == whole and not fake  # nothing is left to ask, no model is loaded


def test_processes_share_the_videos_in_any_order(root, tmp_path, fake):
    whole = run(root, tmp_path / "whole")
    config = config_of("lvbench", root / "lvbench", root / "model")
    workdir = tmp_path / "shared"
    told = [evaluate(config, workdir, process, 3) for process in (2, 0)]
    assert all("finished its part; " in lines[0] for lines in told) and not (workdir / "report.md").exists()
    assert evaluate(config, workdir, 1, 3)[-1] == f"The report: {workdir / 'report.md'}"
    assert reported(workdir) == whole
    assert len(list((workdir / "rows").iterdir())) == 3
    opened = [name for tempo in fake[1:] for name, _ in tempo.opened]
    assert sorted(opened) == ["one.mp4", "two.mp4"]


def test_a_part_has_one_process_at_a_time(root, tmp_path, fake):
    writer = rows.Writer(tmp_path, 0)
    writer._file.write(b'{"question": "being written')
    writer._file.flush()
    with pytest.raises(TempoError, match=r"is being evaluated by another process, as --process=0 too: wait"):
        evaluate(config_of("lvbench", root / "lvbench", root / "model"), tmp_path)
    assert (tmp_path / "rows" / "0.jsonl").read_bytes() == b'{"question": "being written'
    rows.Writer(tmp_path, 1).close()  # another part
    writer.close()
    evaluate(config_of("lvbench", root / "lvbench", root / "model"), tmp_path)


def test_the_order_of_questions_does_not_matter(root, tmp_path, fake):
    whole = run(root, tmp_path / "whole", "mlvu")
    (file,) = (root / "mlvu").rglob("*.parquet")
    table = annotations._rows(file)
    random.Random(3).shuffle(table)
    copies.write_rows(root / "mlvu" / "shuffled.json", table)
    assert run(root, tmp_path / "shuffled", "mlvu", **{"data.annotations": "shuffled.json"}) == whole


def test_other_settings_in_the_same_folder_are_refused(root, tmp_path, fake):
    run(root, tmp_path)
    with pytest.raises(TempoError, match=r"other settings \(min_frames was 8 and is 4\)"):
        run(root, tmp_path, min_frames=4)
    with pytest.raises(TempoError, match="benchmark was 'lvbench' and is 'mlvu'"):
        run(root, tmp_path, "mlvu")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TempoError, match=r"run.json is damaged"):
        run(root, tmp_path)


def test_a_grid_grows_and_asks_only_what_is_new(root, tmp_path, fake):
    run(root, tmp_path, budget=(64,), limit=3, batch=1)
    first = len(fake[0].asked)
    results, _ = run(root, tmp_path, budget=(64, 128), batch=1)
    assert len(fake[1].asked) == 8 - first and [row["budget"] for row in results["settings"]] == [64, 128]


def test_a_batch_that_is_done_in_part_is_asked_again_as_a_whole(root, tmp_path, fake):
    """As what else is in a batch changes the last bits of logits; what is there stays."""
    whole = run(root, tmp_path / "whole", budget=(64, 128))
    cut = tmp_path / "cut"
    run(root, cut, budget=(64, 128))
    file = cut / "rows" / "0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    answered = [line for line in lines if b'"failure": ""' in line]
    file.write_bytes(b"".join(line for line in lines if line != answered[-1]))
    assert run(root, cut, budget=(64, 128)) == whole
    assert [len(batch) for batch in fake[-1].together] == [2] and fake[-1].opened == [("two.mp4", 8)]
    now = file.read_bytes().splitlines(keepends=True)
    assert len(now) == len(lines) and set(lines) - set(now) == {answered[-1]}  # it has other seconds


def test_a_question_that_is_refused_is_one_failed_answer(root, tmp_path, fake):
    results, text = run(root, tmp_path, budget=(13,))
    assert results["settings"][0]["failed"] == 7 and results["settings"][0]["tokens_per_frame"] is None
    assert "does not fit a budget of 13" in text


def test_what_is_said_of_answers_is_in_the_report(root, tmp_path, fake):
    results, text = run(root, tmp_path, budget=(77,))
    assert results["warnings"] == [{"warning": "The budget is lowered.", "answers": 4}]
    assert "* The budget is lowered. (4)" in text


def test_replies_without_a_letter_are_counted_and_shown(root, tmp_path, monkeypatch):
    replies = itertools.cycle(["", "夢 `x`\n| y", "no idea", "(B)"])
    monkeypatch.setattr(model, "load", lambda config: FakeTempo(lambda *_: next(replies)))
    results, text = run(root, tmp_path / "a", "lvbench")
    (setting,) = results["settings"]
    assert setting["unparsable"] == 3 and setting["random_options_right"] is None
    assert "(nothing)" in text and "`夢 'x' | y`" in text and "`no idea`" in text
    results, text = run(root, tmp_path / "b", "longvideobench")
    (setting,) = results["settings"]
    assert setting["unparsable"] == 3 and setting["random_options_right"] is not None
    lost = setting["without_random_options"]["right"]
    assert setting["all"]["right"] == lost + setting["random_options_right"]
    assert "correct by a random option" in text


def test_the_table_stands_beside_what_was_published(root, tmp_path, fake):
    _, text = run(root, tmp_path, budget=(4096, 8192, 12288), max_frames=(1024, 2048))
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("| **measured**")]) == 6
    assert "| *published, not measured*: Tempo 6B | 1024 | 4096 | 52.7 | - | 2.9 | - |" in lines
    assert "| *published, not measured*: Tempo 6B | 2048 | 12288 | 53.7 | - | - | - |" in lines
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "published" not in run(root, tmp_path, published=False)[1]


def test_a_report_of_what_there_is(root, tmp_path, fake):
    config = config_of("lvbench", root / "lvbench", root / "model")
    evaluate(config, tmp_path, 0, 2)
    Run(config, tmp_path).report()
    results, text = reported(tmp_path)
    assert 0 < results["answers"] < 7 and not results["complete"]
    assert f"**Incomplete: {results['answers']} of 7 answers.**" in text
    seconds = json.loads((tmp_path / "report.json").read_text())["seconds"]
    assert set(next(iter(seconds.values()))) == {"decode", "wait", "vision", "compress", "answer", "answers"}


def test_progress_has_an_eta(root, tmp_path, fake, capsys, monkeypatch):
    monkeypatch.setattr("tempo_jax.evaluation.watch.SECONDS_BETWEEN_LINES", 0.0)
    config = config_of("lvbench", root / "lvbench", root / "model")
    evaluate(config, tmp_path / "a", 0, 1)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 7 and told[-1].startswith("7/7 answers, ") and told[-1].endswith("ETA 0:00:00")
    evaluate(config, tmp_path / "b", 1, 2)
    assert capsys.readouterr().err == ""  # process 0 speaks for all
