"""The `tempo` command against a stand-in model: arguments, streams, exit statuses."""

import inspect
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import tempo_jax
from tempo_jax import cli
from tempo_jax.cli import batch, common
from tempo_jax.errors import TempoError
from tempo_jax.fields import FIELDS
from tempo_jax.runtime.results import Answer, Segment
from tempo_jax.tempo.options import LP_COMP, Options
from tempo_jax.utils import progress
from tempo_jax.video import Reading
from tempo_jax.xcomp.token_compression import VARIANTS

REPO = Path(__file__).resolve().parent.parent


class FakeClip:
    def __init__(self, tempo, video):
        self.tempo, self.video, self.last_answer = tempo, video, None

    def ask(self, question, **options):
        self.tempo.calls.append(("clip.ask", self.video, question, options))
        return self.tempo.answer(self.video, question, options)

    def stream(self, question, **options):
        self.tempo.calls.append(("clip.stream", self.video, question, options))
        answer = self.tempo.answer(self.video, question, options)
        yield from answer.text.partition(" ")
        self.last_answer = answer


class FakeTempo:
    """Records calls; the question decides what happens."""

    def __init__(self):
        self.calls = []

    def open(self, video, **options):
        self.calls.append(("open", video, None, options))
        return FakeClip(self, video)

    def ask(self, video, question, **options):
        self.calls.append(("ask", video, question, options))
        return self.answer(video, question, options)

    def answer(self, video, question, options):
        print("a library prints")
        options["progress"]("decoding", 1, 1)
        match question:
            case "bad":
                raise TempoError("This video cannot be decoded; try another one.")
            case "bug":
                raise RuntimeError("first line\nsecond line")
            case "interrupt":
                raise KeyboardInterrupt
        segments = [Segment(i, 4.0 * i, 4.0 * i + 4, 0.5, 64) for i in range(2)]
        usage = {
            "frames": 16,
            "segments": 2,
            "budget": options.get("budget", Options.budget),
            "visual_tokens": 128,
            "tokens_per_frame": 8.0,
            "prompt_tokens": 160,
            "new_tokens": 3,
        }
        warnings = [] if question else ['The question is empty, so "Describe this content." is asked.']
        return Answer("A 猫 sits.", [1, 2, 3], segments, usage, {"total": 1.25}, warnings)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A stand-in model and a working directory with a video, a checkpoint and an image."""
    tempo = FakeTempo()

    def load(checkpoint, dtype=None, mesh=None):
        tempo.calls.append(("load", checkpoint, None, {}))
        return tempo

    monkeypatch.setattr(tempo_jax, "load", load, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEMPO_CHECKPOINT", raising=False)
    monkeypatch.delenv("TEMPO_JAX_TRACEBACK", raising=False)
    (tmp_path / "checkpoints" / "demo").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("photo.PNG")
    for name in ("v.mp4", "w.mp4"):
        (tmp_path / name).touch()
    return tempo


def command(*arguments, **environment):
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tempo_jax.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)} | environment,
        timeout=60,
    )


def test_text_is_streamed_and_the_rest_is_on_stderr(fake, capsys):
    assert cli.main(["ask", "v.mp4", "What?"]) == 0
    out, err = capsys.readouterr()
    assert out == "A 猫 sits.\n"
    assert "16 frames in 2 segments" in err
    assert "128 of 8192 visual tokens" in err
    assert [name for name, *_ in fake.calls] == ["load", "open", "clip.stream"]


def test_json_is_all_of_stdout(fake, capsys):
    assert cli.main(["ask", "v.mp4", "What?", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    values = json.loads(out)
    assert values["text"] == "A 猫 sits."
    assert values["token_ids"] == [1, 2, 3]
    assert values["segments"][1] == {
        "index": 1,
        "start_seconds": 4.0,
        "end_seconds": 8.0,
        "relevance": 0.5,
        "tokens": 64,
    }
    assert values["usage"]["budget"] == 8192
    assert "a library prints" in err


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_options_arrive(fake, mode, capsys):
    given = "--budget 9 --fps 0.5 --min-frames 2 --max-frames 3 --strategy tome --no-compress"
    given += " --lp-comp suffix --max-new-tokens 5 --temperature 0.7 --checkpoint other"
    Path("other").mkdir()
    assert cli.main(["ask", "v.mp4", "What?", *given.split(), *mode]) == 0
    options = {k: v for *_, call in fake.calls for k, v in call.items()}
    for ours in ("progress", "keep"):
        options.pop(ours, None)
    assert options == {
        "budget": 9,
        "fps": 0.5,
        "min_frames": 2,
        "max_frames": 3,
        "strategy": "tome",
        "compress": False,
        "lp_comp": "suffix",
        "max_new_tokens": 5,
        "temperature": 0.7,
    }
    assert fake.calls[0][1] == "other"


def test_what_may_be_chosen_is_what_the_systems_know():
    assert set(FIELDS["lp_comp"].every_choice) == {*LP_COMP, *VARIANTS}


def test_published_defaults(fake, capsys):
    """What was not given is left to the system."""
    assert cli.main(["ask", "v.mp4", "What?", "--json"]) == 0
    defaults = inspect.signature(tempo_jax.Tempo.ask).parameters
    options = {
        name: defaults[name].default
        for name in {*common.OPEN_OPTIONS, *common.ASK_OPTIONS} - {*Reading.__annotations__}
    }
    options |= fake.calls[-1][3]
    options.pop("progress")
    assert set(common.READING_OPTIONS) == {*Reading.__annotations__}
    assert options == {
        "budget": 8192,
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 1024,
        "strategy": "head",
        "compress": True,
        "lp_comp": "none",
        "max_new_tokens": 1024,
        "temperature": 0.0,
    }


def test_checkpoint_from_the_environment(fake, monkeypatch, capsys):
    Path("mine").mkdir()
    monkeypatch.setenv("TEMPO_CHECKPOINT", "mine")
    assert cli.main(["ask", "v.mp4", "What?"]) == 0
    assert fake.calls[0][1] == "mine"


def test_empty_question_is_said(fake, capsys):
    assert cli.main(["ask", "v.mp4", ""]) == 0
    assert "warning: The question is empty" in capsys.readouterr().err


def test_question_with_broken_bytes(fake, capsys):
    assert cli.main(["ask", "v.mp4", "a\udcff"]) == 0
    assert fake.calls[-1][2] == "a\ufffd"


def test_plot(fake, capsys):
    assert cli.main(["ask", "v.mp4", "Où?", "--plot", "a.png", "--json"]) == 0
    assert Path("a.png").stat().st_size > 5000
    json.loads(capsys.readouterr().out)


MISTAKES = [
    (["v.mp4"], "QUESTION"),
    (["v.mp4", "q", "--budget", "0"], "--budget"),
    (["v.mp4", "q", "--budget", "-3"], "--budget"),
    (["v.mp4", "q", "--budget", "1.5"], "--budget"),
    (["v.mp4", "q", "--budget", "9" * 400], "--budget"),
    (["v.mp4", "q", "--fps", "0"], "--fps"),
    (["v.mp4", "q", "--fps", "nan"], "--fps"),
    (["v.mp4", "q", "--fps", "inf"], "--fps"),
    (["v.mp4", "q", "--temperature", "-1"], "--temperature"),
    (["v.mp4", "q", "--max-new-tokens", "0"], "--max-new-tokens"),
    (["v.mp4", "q", "--strategy", "best"], "--strategy"),
    (["v.mp4", "q", "--lp-comp", "best"], "--lp-comp"),
    (["v.mp4", "q", "--selected-frames", "7"], "--selected-frames"),
    (["v.mp4", "q", "--nonsense"], "--nonsense"),
    (["none.mp4", "q"], "There is no video none.mp4"),
    (["", "q"], "There is no video"),
    (["x" * 5000, "q"], "There is no video"),
    (["v.mp4", "q", "--checkpoint", "none"], "There is no checkpoint folder none"),
    (["v.mp4", "q", "--plot", "no/a.png"], "does not exist"),
    (["v.mp4", "q", "--plot", "a.mp3"], "ends in .mp3"),
    (["photo.PNG", "q", "--plot", "a.png"], "no time axis"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_end_early_in_one_sentence(fake, capsys, arguments, message):
    assert cli.main(["ask", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("tempo")
    assert message in err
    assert fake.calls == []  # nothing slow was started


def test_mistake_found_by_the_model(fake, capsys):
    assert cli.main(["ask", "v.mp4", "bad", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a library prints\ntempo: This video cannot be decoded; try another one.\n"


def test_bug_is_one_line_unless_asked(fake, capsys, monkeypatch):
    assert cli.main(["ask", "v.mp4", "bug"]) == 1
    err = capsys.readouterr().err
    assert "internal error: RuntimeError: first line (" in err
    assert "Traceback" not in err
    monkeypatch.setenv("TEMPO_JAX_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="second line"):
        cli.main(["ask", "v.mp4", "bug"])


def test_interrupt(fake, capsys):
    assert cli.main(["ask", "v.mp4", "interrupt"]) == 130


def write_cases(cases, folder="cases"):
    Path(folder).mkdir(exist_ok=True)
    path = Path(folder) / "cases.json"
    path.write_text(json.dumps(cases))
    return str(path)


def case(video, query, **more):
    return {"video_path": video, "query": query, **more}


def test_batch_goes_on_after_failures(fake, capsys):
    cases = [
        case("../v.mp4", "one", id=7, error="mine"),
        case("none.mp4", "two"),
        case("../v.mp4", "bad"),
        case("../w.mp4", "bug"),
        {"query": "no video"},
        "nonsense",
        case(str(Path("v.mp4").resolve()), "\ud800 last"),
    ]
    assert cli.main(["batch", write_cases(cases), "--out", "out.jsonl"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "5 of 7 cases failed" in err
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(7))
    assert ["error" in line for line in lines] == [False, True, True, True, True, True, False]
    assert lines[0]["id"] == 7
    assert lines[0]["text"] == "A 猫 sits."
    assert lines[0]["video_path"] == "../v.mp4"
    assert "There is no video" in lines[1]["error"]
    assert lines[2]["error"] == "This video cannot be decoded; try another one."
    assert 'no text "video_path"' in lines[4]["error"]


def test_batch_loads_once_and_shares_open_videos(fake, capsys):
    cases = [case("../v.mp4", q) for q in "ab"] + [case("../w.mp4", "c"), case("../v.mp4", "d")]
    assert cli.main(["batch", write_cases(cases), "--budget", "5"]) == 0
    out, _ = capsys.readouterr()
    assert [json.loads(line)["query"] for line in out.splitlines()] == list("abcd")
    assert [name for name, *_ in fake.calls] == ["load", "open", "clip.ask", "clip.ask", "ask", "ask"]
    assert all(call[3]["budget"] == 5 for call in fake.calls if call[2])


def test_batch_forgets_a_video_that_failed(fake, capsys):
    cases = [case("../v.mp4", q) for q in ("a", "bad", "c")]
    assert cli.main(["batch", write_cases(cases)]) == 2
    assert [name for name, *_ in fake.calls] == ["load", "open", "clip.ask", "clip.ask", "ask"]


def batch_lines(path="out.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]


def test_batch_goes_on_where_it_was_interrupted(fake, capsys):
    cases = [case("../v.mp4", q, text=f"my {q}") for q in ("a", "b", "c")]
    command = ["batch", write_cases(cases), "--out", "out.jsonl", "--budget", "5"]
    assert cli.main(command) == 0
    whole = Path("out.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    fake.calls.clear()
    assert cli.main(command) == 0 and not fake.calls  # no model is loaded
    assert "all 3 cases are answered in out.jsonl already" in capsys.readouterr().err
    Path("out.jsonl").write_bytes(lines[0] + lines[2] + lines[1][:20])  # killed, and not in order
    assert cli.main(command) == 0
    assert [name for name, *_ in fake.calls] == ["load", "ask"] and fake.calls[1][2] == "b"
    assert Path("out.jsonl").read_bytes() == whole and not Path("out.jsonl.before").exists()
    assert set(batch_lines()[0]) - {"video_path", "query", "answered_by"} >= batch.RESULT


def test_batch_asks_again_what_failed(fake, capsys):
    command = ["batch", write_cases([case("../late.mp4", "a"), case("../v.mp4", "b")]), "--out", "out.jsonl"]
    assert cli.main(command) == 2
    assert "rerun the same command to retry them" in capsys.readouterr().err
    Path("late.mp4").write_bytes(b"x")
    fake.calls.clear()
    assert cli.main(command) == 0
    assert [call[2] for call in fake.calls if call[0] == "ask"] == ["a"]
    assert ["error" in line for line in batch_lines()] == [False, False]
    assert not Path("out.jsonl.before").exists()


@pytest.mark.parametrize("old", ["my notes\n", "my notes", '{"index": 0, "query": "x"}\n', "[1]\n"])
def test_batch_loses_nothing_that_its_output_held(old, fake, monkeypatch, capsys):
    Path("out.jsonl").write_text(old)
    command = ["batch", write_cases([case("../v.mp4", "a")]), "--out", "out.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr(tempo_jax, "load", lambda *_, **__: (_ for _ in ()).throw(TempoError("No model.")))
        assert cli.main(command) == 2
    assert Path("out.jsonl").read_text() == old  # nothing was answered yet
    assert cli.main(command) == 0
    assert "out.jsonl held other lines; they are in out.jsonl.before now" in capsys.readouterr().err
    assert Path("out.jsonl.before").read_text() == old and len(batch_lines()) == 1


def test_batch_takes_no_answers_of_other_options_models_or_cases(fake, tmp_path):
    cases = [case("../v.mp4", "a\u2028b"), case("../v.mp4", "c")]
    command = ["batch", write_cases(cases), "--out", "out.jsonl"]
    assert cli.main([*command, "--budget", "5"]) == 0
    first = Path("out.jsonl").read_bytes()
    fake.calls.clear()
    assert cli.main([*command, "--budget", "6"]) == 0 and len(fake.calls) > 1
    assert Path("out.jsonl.before").read_bytes() == first
    assert len({line["answered_by"] for line in batch_lines()}) == 1
    write_cases([cases[0], case("../v.mp4", "other"), case("../w.mp4", "more")])
    fake.calls.clear()
    assert cli.main([*command, "--budget", "6"]) == 0
    assert [call[2] for call in fake.calls if call[2]] == ["other", "more"]


def test_a_new_output_is_not_there_before_an_answer(fake, monkeypatch):
    monkeypatch.setattr(tempo_jax, "load", lambda *_, **__: (_ for _ in ()).throw(TempoError("No model.")))
    assert cli.main(["batch", write_cases([case("../v.mp4", "a")]), "--out", "out.jsonl"]) == 2
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ("{}", "must be a list"), ("[]", "must be a list"), (None, "cannot be read")],
)
def test_bad_cases_file(fake, capsys, content, message):
    if content is not None:
        Path("c.json").write_text(content)
    assert cli.main(["batch", "c.json"]) == 2
    assert message in capsys.readouterr().err
    assert fake.calls == []


def test_out_cannot_be_written(fake, capsys):
    cases = write_cases([case("../v.mp4", "q")])
    assert cli.main(["batch", cases, "--out", "none/x.jsonl"]) == 2
    assert cli.main(["batch", cases, "--out", cases]) == 2
    assert json.loads(Path(cases).read_text())


def test_help_is_fast_and_complete():
    started = time.perf_counter()
    result = command("ask", "--help")
    assert time.perf_counter() - started < 2
    assert result.returncode == 0
    for option in ("--checkpoint", "--budget", "--fps", "--no-compress", "--plot", "--json"):
        assert option in result.stdout
    assert "examples:" in command("--help").stdout
    assert command("--version").stdout.startswith("tempo ")


def test_help_does_not_import_jax():
    code = (
        "import sys; from tempo_jax import cli; cli.main(['--help']); cli.main(['ask', 'x', 'y']); "
        "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True)


def test_broken_pipe_is_quiet(tmp_path):
    code = (
        "import sys, tempo_jax; from tempo_jax import cli; from tests.test_cli import FakeTempo; "
        "tempo_jax.load = lambda *a, **k: FakeTempo(); "
        "sys.exit(cli.main(['ask', 'README.md', 'x', '--checkpoint', 'tests']))"
    )
    (tmp_path / "README.md").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", code.replace("README.md", str(tmp_path / "README.md"))],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(60) == 141
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


def test_progress_lines_are_sparse(capsys, monkeypatch):
    lines = progress.Lines()
    for i in range(101):
        lines("decode", i, 100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    lines("compress", 3, 10)
    lines("compress", 10, 10)
    lines("count", 7, 0)
    lines.close()
    lines("late", 1, 1)
    assert capsys.readouterr().err == "compress 3/10\ncount 7\n"


def test_live_progress_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.reporter() as shown:
        assert isinstance(shown, progress.Live)
        shown("decode", 1, 2)
        shown("answer", 5, 0)
        shown.close()
        shown("late", 1, 1)
    assert "decode" in sys.stderr.getvalue()
    assert "late" not in sys.stderr.getvalue()
