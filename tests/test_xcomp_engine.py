"""Asking XComp: the same Answer as Tempo's, budgets, kept work, no compilation inside a bucket, mistakes."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

import tempo_jax
from tempo_jax import checkpoint, cli
from tempo_jax.errors import TempoError
from tempo_jax.models.decoder import Decoder
from tempo_jax.runtime import generate
from tempo_jax.xcomp import frames as frames_module
from tempo_jax.xcomp import steps
from tempo_jax.xcomp.engine import XComp
from tests import xcomp_systems as tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")
ASK = {"fps": 4.0, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def system(tokenizer):
    return tiny.micro(tokenizer)


@pytest.fixture(scope="module")
def clip(system):
    return system.open(tiny.moving(64), fps=4.0)


def test_an_answer_names_the_frames_that_stayed(clip, tmp_path):
    answer = clip.ask("what is red?", budget=300, max_new_tokens=4)
    assert len(answer.segments) == 64 and answer.usage["frames"] == 64
    kept = [s for s in answer.segments if s.tokens]
    assert len(kept) == answer.usage["frames_kept"] == 16  # 300 tokens hold 18 frames, in eights 16
    assert answer.usage["visual_tokens"] == 256 <= answer.usage["budget"] == 300
    assert {s.tokens for s in kept} == {16} and answer.token_limits == (0, 16)
    lowest = min(s.score for s in kept)
    assert all(s.score <= lowest + 1e-12 for s in answer.segments if not s.tokens)
    assert max(s.relevance for s in answer.segments) == pytest.approx(1.0)
    last = answer.segments[-1]
    assert (last.end_seconds, last.frame) == (16.0, 63)
    assert len(answer.token_ids) == answer.usage["new_tokens"] <= 4
    values = json.loads(answer.to_json())
    assert values["segments"][0].keys() >= {"index", "start_seconds", "relevance", "tokens", "frame", "score"}
    answer.plot(tmp_path / "frames.png", title="what is red?")
    assert (tmp_path / "frames.png").stat().st_size > 1000


def test_streamed_pieces_join_to_the_answer(clip):
    pieces = list(clip.stream("what is red?", budget=256, max_new_tokens=6))
    assert "".join(pieces) == clip.last_answer.text
    assert clip.last_answer.token_ids == clip.ask("what is red?", budget=256, max_new_tokens=6).token_ids


def test_short_videos_stay_whole(clip):
    """Nothing is scored, and nothing is said of scores."""
    answer = clip.ask("what is red?", max_new_tokens=2)
    assert answer.usage["visual_tokens"] == 1024 and {s.tokens for s in answer.segments} == {16}
    assert json.loads(answer.to_json())["segments"][0]["score"] is None


@pytest.mark.parametrize("strategy", ["global", "uniform"])
def test_other_ways_to_choose(clip, strategy):
    answer = clip.ask("what is red?", budget=256, strategy=strategy, max_new_tokens=2)
    kept = [s.index for s in answer.segments if s.tokens]
    assert len(kept) == 16
    if strategy == "uniform":
        assert kept == list(range(0, 64, 4))


def test_the_tower_runs_once_per_clip_and_alignment(system, monkeypatch):
    """Two repeats of 64 frames have chunks at 0 and 36, so clips at two alignments; then the kept frames."""
    calls = []
    see = steps.encode_frames
    monkeypatch.setattr(
        frames_module.steps, "encode_frames", lambda *args: (calls.append(args[2].shape[0]), see(*args))[1]
    )
    opened = system.open(tiny.moving(64), fps=4.0)
    opened.encode()
    assert sum(calls) == 8
    opened.ask("what is red?", budget=256, max_new_tokens=1)
    assert sum(calls) == 8 + 8 + 2
    opened.ask("what is red?", budget=128, max_new_tokens=1)  # another budget, the same scores
    assert sum(calls) == 8 + 8 + 2 + 1


def test_nothing_compiles_inside_a_bucket(system, clip):
    clip.ask("what is red?", budget=512, max_new_tokens=2)
    watched = (steps.encode_frames, steps.score, steps.prefill, steps.resize, generate.decode)
    before = [program._cache_size() for program in watched]
    clip.ask("how many are green and where?", budget=384, max_new_tokens=3, repeats=1)
    system.open(tiny.moving(64, seed=5), fps=2.0).ask("when?", budget=400, max_new_tokens=2)
    assert [program._cache_size() for program in watched] == before


def test_without_compression_it_is_the_plain_llm(system, clip):
    """Every frame and all tokens in all layers: the shared decoder's own prefill."""
    answer = clip.ask("what is red?", compress=False, max_new_tokens=1)
    from tempo_jax.xcomp import layout

    text = layout.prompt_text(system.tokenizer, "what is red?", clip.message)
    embed, pool = system.model.llm.embed, clip.frames.visual_tokens(0)[: 64 * 16]
    x = np.concatenate([embed(np.array(text.prefix)), pool, embed(np.array(text.suffix))])[None]
    hidden, _ = jax.jit(Decoder.prefill)(system.model.llm, x, np.arange(x.shape[1])[None])
    assert answer.token_ids == [int(system.model.llm.logits(hidden[0, -1]).argmax())]
    assert answer.usage["prompt_tokens"] == x.shape[1]


def test_an_image_has_no_time(system):
    answer = system.ask(tiny.moving(1)[0], "what is red?", max_new_tokens=2)
    assert answer.segments == () and answer.usage["visual_tokens"] == 16


def test_clips_of_four_frames(tokenizer):
    """As the released evaluation runs them: the clips' length is a setting."""
    four = tiny.micro(tokenizer, clip_frames=4)
    seen = four.inspect(tiny.moving(16), "what?", budget=128, fps=4.0)
    assert (seen.allocation > 0).sum() == 8 and seen.memory.shape == (8, 16, 32)
    assert four.open(tiny.moving(16)).frames.num_clips == 4 and seen.logits.shape == (1024,)


def test_repeated_frames_of_short_videos(system):
    answer = system.ask(tiny.moving(16), "what?", min_frames=64, repeat_short=True, **ASK)
    assert answer.usage["frames"] == 64 and answer.segments[7].frame == 1


@pytest.mark.parametrize("options,words", [
    ({"budget": 100}, "come in eights of 16 tokens each: give at least 128"),
    ({"strategy": "tome"}, "is none of XComp's"),
    ({"query_skip": 500, "budget": 256}, "tokens follow the video"),
    ({"max_new_tokens": 5000}, "leave no room for a video"),
    ({"colour": 1}, "colour"),
])  # fmt: skip
def test_mistakes(clip, options, words):
    with pytest.raises((TempoError, TypeError), match=words):
        clip.ask("what is red?", **options)


def test_a_small_context_lowers_the_budget(system):
    small = copy.copy(system)
    small.config = dataclasses.replace(system.config, context_length=700)
    answer = small.ask(tiny.moving(64), "what?", **ASK)
    assert answer.usage["frames_kept"] == 32 and "lowered from 1024 to 512" in answer.warnings[0]
    with pytest.raises(TempoError, match="Without compression the video takes 1024 tokens"):
        small.ask(tiny.moving(64), "what?", compress=False, **ASK)


def test_the_command_line_takes_a_checkpoint_of_either_system(system, tmp_path, capsys):
    from tempo_jax.data.minireel import tokenizer as minireel_tokenizer

    minireel_tokenizer.write(tmp_path / "tokenizer")
    checkpoint.save(tmp_path / "model", "xcomp", tiny.MICRO, tiny.micro_parameters(), tmp_path / "tokenizer")
    np.save(tmp_path / "video.npy", tiny.moving(64))
    asked = system.ask(tiny.moving(64), "what is red?", budget=256, max_new_tokens=3)
    arguments = ["ask", str(tmp_path / "video.npy"), "what is red?", "--checkpoint", str(tmp_path / "model")]
    assert cli.main([*arguments, "--budget", "256", "--max-new-tokens", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["token_ids"] == list(asked.token_ids) and values["usage"] == asked.usage
    assert [s["tokens"] for s in values["segments"]] == [s.tokens for s in asked.segments]
    assert cli.main([*arguments, "--strategy", "tome"]) == 2
    assert "is none of XComp's" in capsys.readouterr().err
    assert isinstance(tempo_jax.load(tmp_path / "model"), XComp)
