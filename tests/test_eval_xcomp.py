"""Benchmarks as XComp's authors ask them, and runs of a small XComp: its frames, strategies and prompts."""

import json

import pytest

from configs import eval_xcomp
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations, model, parsing, rows, subtitles
from tempo_jax.evaluation import config as configs
from tempo_jax.evaluation.benchmarks import DIRECTLY
from tempo_jax.evaluation.protocols import PROTOCOLS, benchmark
from tests import benchmark_copies as copies
from tests import xcomp_systems as tiny
from tests.eval_runs import checkpoint, evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")
A, B, C, D = copies.OPTIONS
PROMPTS = {
    "lvbench": f"What is seen in part 0?\nA. (A) {A}\nB. (B) {B}\nC. (C) {C}\nD. (D) {D}\n{DIRECTLY}",
    "mlvu": f"Question: What is seen in part 0?\nOption:\n(A) {A}\n(B) {B}\n(C) {C}\n(D) {D}\n{DIRECTLY}",
    "videomme": (
        f"{benchmark('videomme').prompt_prefix}Question: What is seen in part 0?\nOption:\n"
        f"A. {A}\nB. {B}\nC. {C}\n"
        f"D. {D}\n{DIRECTLY}"
    ),
    "longvideobench": (
        f"What is seen in part 0?\n(A). {A}\n(B). {B}\n(C). {C}\n(D). {D}\n{DIRECTLY}\n"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    for name, write in copies.WRITERS.items():
        write(root / name)
    said = root / "longvideobench" / "subtitles"
    said.mkdir()
    for name in dict.fromkeys(copies.ASKED):
        line = {"start": "00:00:01.000", "end": "00:00:02.500", "line": f"This is {name}."}
        (said / f"{name}_en.json").write_text(json.dumps([line]))
    return root


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name, folders):
    first = annotations.read(benchmark(name, "xcomp"), folders / name)[0]
    assert first.prompt == PROMPTS[name]
    assert first.letters == "ABCD" and first.answer == "A"


@pytest.mark.parametrize(
    "text, head, options",
    [
        ("Who?\n(A) x\n(B) (A) y", "Who?", ("x", "(A) y")),
        ("One.\nWho?\n(A) x\n(B) y", "One.\nWho?", ("x", "y")),
        ("Who?\n(B) x\n(A) y", "Who?\n(B) x\n(A) y", ()),
        ("Who?\n(A) x\nor\n(B) y", "Who?\n(A) x\nor\n(B) y", ()),
        ("(A) x\n(B) y", "(A) x\n(B) y", ()),
        ("Who?", "Who?", ()),
    ],
)
def test_options_below_a_question(text, head, options):
    assert annotations._split(text) == (head, options)


def test_mlvu_is_a_share_of_all_questions():
    assert benchmark("mlvu").mean_of and not benchmark("mlvu", "xcomp").mean_of


@pytest.mark.parametrize(
    "parse, reply, letter",
    [
        (parsing.stand_alone, "B. a square", "B"),
        (parsing.stand_alone, "(c) nothing", "C"),
        (parsing.stand_alone, "It is a bus, so B", "A"),
        (parsing.stand_alone, "Best", ""),
        (parsing.stand_alone, "", ""),
        (parsing.first_of_four, "The best answer is E, no, D", "D"),
        (parsing.first_of_four, "none", ""),
        (parsing.last_mentioned, "(A) or rather (B)", "B"),
        (parsing.last_mentioned, "A (B)", "B"),
        (parsing.last_mentioned, "C.", "C"),
        (parsing.last_mentioned, "in the end i think that it is the clock", "D"),
        (parsing.last_mentioned, "the clock", ""),
        (parsing.last_mentioned, "", ""),
    ],
)
def test_replies(parse, reply, letter):
    assert parse(reply, "ABCD", tuple(copies.OPTIONS)) == letter


def test_subtitles_of_a_clip(tmp_path):
    """Both forms; times count from where the clip was cut; what no moment falls into is left out."""
    path = tmp_path / "a.json"
    entries = [
        {"timestamp": [1.0, 9.0], "text": "before"},
        {"timestamp": [10.5, 12.0], "text": " first "},
        {"start": "00:00:13.2", "end": "00:00:13.7", "line": "between two moments"},
        {"start": "00:00:14.000", "end": "00:00:15.5", "line": "then"},
        {"timestamp": [16.5, None], "text": "to the end"},
    ]
    path.write_text(json.dumps(entries))
    assert subtitles.lines(path, 10.0, 8.0) == ["first", "then", "to the end"]
    assert subtitles.lines(path, 10.0, 8.0, moments=1) == []
    for content in ("", "{", "[1]", '[{"line": "no times"}]'):
        path.write_text(content)
        with pytest.raises(TempoError, match="download them again"):
            subtitles.lines(path, 0.0, 8.0)
    with pytest.raises(TempoError, match="There are no subtitles"):
        subtitles.lines(tmp_path / "none.json", 0.0, 8.0)


def test_prompts_begin_with_subtitles(folders):
    row = benchmark("longvideobench", "xcomp")
    first = annotations.read(row, folders / "longvideobench", subtitles=True)[0]
    assert first.prompt == "This is one.\n" + PROMPTS["longvideobench"]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"system": "temp"}, "config.system is 'temp': use one of tempo, xcomp"),
        ({"strategy": ("head",)}, "config.strategy has 'head': use some of local, global, uniform, none"),
        ({"max_tokens": (8,)}, "config.max_tokens means nothing to the system xcomp"),
        ({"subtitles": True}, "config.subtitles is True, but lvbench has none"),
    ],
)
def test_mistakes(changes, sentence):
    config = eval_xcomp.get_config()
    config.data.path = "somewhere"
    config.update(changes)
    with pytest.raises(TempoError, match=sentence):
        configs.check(config)


@pytest.mark.parametrize("name", PROTOCOLS["xcomp"])
def test_every_benchmark_of_the_config_is_a_valid_run(name):
    config = eval_xcomp.get_config(name)
    config.data.path = "somewhere"
    configs.check(config)
    assert configs.resume_key(config)["xcomp"]["query_skip"] == 27


def test_a_run_of_before_these_fields_goes_on(tmp_path):
    now = configs.resume_key(configs.default())
    configs.check_same_run({k: v for k, v in now.items() if k not in ("system", "subtitles")}, now, tmp_path)


@pytest.fixture
def config(folders, tokenizer, monkeypatch, tmp_path):
    """Of a small XComp, 8 of the 16 frames of 4 s at 4 a second, which are repeated to 24."""
    xcomp = tiny.micro(tokenizer)
    monkeypatch.setattr(model, "load", lambda config: xcomp)
    config = eval_xcomp.get_config("longvideobench")
    config.update(
        {"min_frames": 24, "budget": (128,), "decode_workers": 0, "subtitles": True, "dtype": "float32"}
    )
    config.allow_missing = True
    minireel_tokenizer.write(tmp_path / "tokenizer")
    config.checkpoint = str(checkpoint(tmp_path / "model", tmp_path / "tokenizer", "xcomp", tiny.MICRO))
    config.data.path = str(folders / "longvideobench")
    config.strategy = ("local", "none")
    config.xcomp.query_skip = 3
    return config, xcomp


def test_rows_are_the_answers_of_ask(config, tmp_path, folders):
    config, xcomp = config
    lines = evaluate(config, tmp_path / "run")
    assert lines[-1].startswith("The report:")
    found = rows.read(tmp_path / "run")
    one = found["one_0", "1024 frames, local, budget 128"]
    question = annotations.read(
        benchmark("longvideobench", "xcomp"), folders / "longvideobench", subtitles=True
    )[0]
    answer = xcomp.ask(
        folders / "longvideobench" / "videos" / "one.mp4", question.prompt, budget=128, min_frames=24,
        max_new_tokens=32, causal_scoring=False, query_skip=3, repetition_penalty=1.1, repeat_short=True,
    )  # fmt: skip
    assert (one["text"], one["visual_tokens"], one["frames"]) == (answer.text, 128, 24)
    assert one["allocation"]["at_cap"] == 8
    assert found["one_0", "1024 frames, none"]["visual_tokens"] == 384
    assert all(found[q, "1024 frames, none"]["failure"] for q in ("missing_4", "cut_5", "empty_6"))
    report = (tmp_path / "run" / "report.md").read_text("utf-8")
    assert "*published, not measured*: XComp 2B" in report
    before = (tmp_path / "run" / "rows" / "0.jsonl").read_bytes()
    evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "rows" / "0.jsonl").read_bytes() == before
