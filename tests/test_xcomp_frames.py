"""Frames and chunks, prompts, scores and selection on the host: recorded cases and those by hand (T8-T12)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempo_jax.errors import TempoError
from tempo_jax.video import open_video
from tempo_jax.xcomp import frame_selection, layout
from tempo_jax.xcomp.frame_selection import GLOBAL, LOCAL, ScoringWindows
from tempo_jax.xcomp.layout import interval_middles, repeat_indices, sample_indices
from tempo_jax.xcomp.options import Options
from tests import xcomp_systems as tiny
from tests.xcomp_systems import recorded


def test_recorded_sampling():
    """T8."""
    cases = recorded("sampler")
    for i, (total, fps, least, most) in enumerate(cases["cases"]):
        found = sample_indices(int(total), fps, 8.0, int(least), int(most))
        np.testing.assert_array_equal(found, cases[f"idx_{i}"], err_msg=str(cases["cases"][i]))
        stretched = found[repeat_indices(len(found), int(least))]
        np.testing.assert_array_equal(stretched, cases[f"frames_{i}"])
        assert f"\n{layout.time_message(total / fps, len(stretched))} " == cases["msgs"][i]
        if total >= 8:  # the training copy finds no frames in shorter videos
            np.testing.assert_array_equal(found, cases[f"train_idx_{i}"])
    for i, (total, _, least, most) in enumerate(cases["img_cases"]):
        found = sample_indices(int(total), 1.0, 8.0, int(least), int(most))
        np.testing.assert_array_equal(found, cases[f"img_idx_{i}"])
    for total, count in ((24, 8), (16, 8), (20, 8), (100, 16)):
        if f"mid_{total}_{count}" in cases:
            np.testing.assert_array_equal(interval_middles(total, count), cases[f"mid_{total}_{count}"])


@given(
    st.integers(0, 5000), st.floats(0.1, 240), st.floats(0.1, 60), st.integers(1, 300), st.integers(1, 900)
)
def test_sampled_frames_are_eights_of_the_video(total, native, fps, least, most):
    found = sample_indices(total, native, fps, least, most)
    assert len(found) % 8 == 0 and len(found) >= 8 and len(found) <= max(8, most)
    assert (np.diff(found) >= 0).all() and found[0] >= 0 and found[-1] <= max(total - 1, 0)


def test_arrays_are_taken_as_recorded():
    """All frames in eights, whatever the target rate; more than max_frames are thinned out."""
    video = np.zeros((20, 4, 4, 3), np.uint8)
    source = open_video(video, fps=4.0, min_frames=128, max_frames=1024, sampler=sample_indices)
    assert source.num_frames == 16 and source.duration_seconds == pytest.approx(5.0)
    source = open_video(video, fps=4.0, min_frames=128, max_frames=8, sampler=sample_indices)
    np.testing.assert_array_equal(source.indices, interval_middles(20, 8))


def test_chunks_by_hand():
    """T9."""
    assert frame_selection.chunk_starts(1024, 1) == [0, 512]
    assert frame_selection.chunk_starts(1024, 2) == [0, 512, 260, 772]
    assert frame_selection.chunk_starts(1024, 8)[:6] == [0, 512, 65, 577, 130, 642]
    assert (
        frame_selection.chunk_frames(1024, LOCAL) == 576 and frame_selection.chunk_frames(1024, GLOBAL) == 512
    )
    assert LOCAL.coverage(72).tolist() == [1] * 4 + [2] * 64 + [1] * 4 and len(LOCAL.starts(72)) == 17
    assert ScoringWindows(2, 1).coverage(4).tolist() == [1, 2, 2, 1]
    assert ScoringWindows(2, 1).valid(4).tolist() == [False, True, True, False]
    assert LOCAL.valid(8).all() and GLOBAL.valid(5).all()


def test_recorded_chunks():
    windows = {"segments_8_4": LOCAL, "segments_16_8": ScoringWindows(16, 8), "default": GLOBAL}
    found = [name for name in recorded("schedule") if name.startswith("chunks_")]
    assert len(found) > 100
    for name in found:
        _, frames, repeats, kind = name.split("_", 3)
        length, *starts = recorded("schedule")[name].tolist()
        assert frame_selection.chunk_starts(int(frames[1:]), int(repeats[1:]), windows[kind]) == starts, name
        assert frame_selection.chunk_frames(int(frames[1:]), windows[kind]) == length


@given(st.integers(1, 300), st.integers(1, 9), st.sampled_from([LOCAL, GLOBAL, ScoringWindows(2, 1)]))
def test_every_frame_gets_a_score_of_every_repeat(eights, repeats, windows):
    """Also below 512 frames, so that nothing is ever divided by zero."""
    frames = 8 * eights
    length = frame_selection.chunk_frames(frames, windows)
    total = frame_selection.FrameScores(frames, 1)
    for start in frame_selection.chunk_starts(frames, repeats, windows):
        total.add(start, np.ones((1, length // 8)), windows)
    assert total.count_F.min() >= repeats
    np.testing.assert_allclose(total.scores(), 1.0)
    if frames % 512 == 0:
        assert total.count_F.max() == repeats


def test_recorded_frame_scores_and_selection():
    """The released run's own clip scores, to the frames that it kept."""
    run = recorded("qc_seg_F1024_dup2_N256")
    assert frame_selection.chunk_starts(1024, int(run["dup"])) == run["starts"].tolist()
    total = frame_selection.FrameScores(1024, 18)
    for start, scores in zip(run["starts"], run["clip_scores"], strict=True):
        total.add(int(start), np.where(scores > 1000, np.nan, scores)[6:24], LOCAL)
        assert ((scores > 1000).all(axis=0) == ~LOCAL.valid(72)).all()
    np.testing.assert_array_equal(total.count_F, run["frame_count"])
    np.testing.assert_allclose(total.scores(), run["frame_score"], rtol=1e-9)
    np.testing.assert_array_equal(frame_selection.top_frames(total.scores(), 256), run["selected"])


def test_selection_by_hand():
    """T11."""
    scores = np.array([0.1, 0.4, 0.4, 0.2])
    assert frame_selection.top_frames(scores, 2).tolist() == [1, 2] and frame_selection.top_frames(
        scores, 3
    ).tolist() == [1, 2, 3]
    assert frame_selection.top_frames(np.array([0.5, 0.5, 0.5, 0.1]), 2).tolist() == [0, 1]
    assert frame_selection.top_frames(scores, 9).tolist() == [0, 1, 2, 3]
    assert (
        frame_selection.round_to_frame_groups(1024, 259) == 256
        and frame_selection.round_to_frame_groups(16, 3) == 8
    )
    assert frame_selection.round_to_frame_groups(16, 99) == 16


def test_budgets_are_frames():
    """T11: short videos stay whole unless a budget says otherwise."""
    assert Options().frame_budget(1016, 16) == 1016 and Options().frame_budget(1024, 16) == 512
    assert Options(budget=4096).frame_budget(800, 16) == 256
    assert Options(budget=16, compress=False).frame_budget(2048, 16) == 2048


def test_scores_add_up():
    """T10: a constant score c in each of 18 layers makes 18 c; a clip's score is each of its frames'."""
    total = frame_selection.FrameScores(512, 18)
    total.add(0, np.full((18, 72), 0.25), LOCAL)
    np.testing.assert_allclose(total.scores(), 18 * 0.25)
    with_holes = frame_selection.FrameScores(512, 1)
    scores = np.full((1, 72), 0.5)
    scores[0, 10] = np.nan
    with_holes.add(0, scores, LOCAL)
    assert with_holes.count_F[80:88].max() == 0 and with_holes.scores()[80:88].tolist() == [0.0] * 8


def test_recorded_prompts(qwen_tokenizer):
    """T12."""
    for case in tiny.prompts():
        message = layout.time_message(case["duration"], case["F"])
        found = layout.prompt_text(qwen_tokenizer, case["question"], message)
        assert len(found.prefix) == case["P"] == 14
        assert [*found.prefix, tiny.PLACEHOLDER, *found.suffix] == case["ids"]
        assert found.question_start == case["n_msg"]
        assert found.question_end == case["first_conv_length"] - 1 - case["P"]
        assert found.suffix[-3:] == [151644, 77091, 198]


@pytest.mark.parametrize(
    "duration,frames,tokens",
    [(12.5, 128, 25), (12.5, 1024, 26), (300, 512, 26), (300, 1024, 27), (3600, 1024, 28)],
)
def test_message_lengths(qwen_tokenizer, duration, frames, tokens):
    """T12: what the released code's fixed 27 stands for."""
    message = layout.time_message(duration, frames)
    assert layout.prompt_text(qwen_tokenizer, "What is it?", message).question_start == tokens


@pytest.fixture(scope="module")
def qwen_tokenizer(qwen_tokenizer_dir):
    from tempo_jax.prompts import Tokenizer

    return Tokenizer(qwen_tokenizer_dir)


@pytest.mark.parametrize("options,words", [
    ({"budget": 0}, "budget is 0"),
    ({"strategy": "head"}, "is none of XComp's"),
    ({"repeats": 0}, "repeats is 0"),
    ({"query_skip": -1}, "query_skip is -1"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0"),
])  # fmt: skip
def test_mistakes_are_sentences(options, words):
    with pytest.raises(TempoError, match=words):
        Options(**options)
