"""Whole-system runs recorded from the released PyTorch code (golden/README), through the converter."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tempo_jax
from convert import from_hf
from examples import tiny_reference
from tempo_jax.models.config import QWEN_IDS
from tempo_jax.models.presets import TINY
from tempo_jax.prompts import IMAGE_PLACEHOLDER, training_query
from tempo_jax.tempo import layout
from tempo_jax.tempo.options import Options
from tests.systems import GOLDEN, RecordedTokenizer, recorded_frames, relative

TOLERANCE = 2e-4
CASES = {"a_basic": (16, 1), "c_tail": (16, 1), "f_image": (16, 1), "g_k128": (128, 3)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Converted checkpoints by memory tokens; 128 from sharded files."""
    folders = {}
    for memory_tokens, shards in sorted(set(CASES.values())):
        out = tmp_path_factory.mktemp(f"tiny{memory_tokens}")
        config = dataclasses.replace(TINY, memory_tokens=memory_tokens)
        source, base = tiny_reference.write(out, config, shards=shards, fill=False)
        from_hf.convert("tempo", source, out / "native", base=base)
        shutil.rmtree(source)
        folders[memory_tokens] = out / "native"
    return folders


@pytest.fixture(scope="module")
def systems(checkpoints):
    loaded = {k: tempo_jax.load(folder) for k, folder in checkpoints.items()}
    for tempo in loaded.values():
        tempo.tokenizer = RecordedTokenizer()
    return loaded


def recorded(name):
    with np.load(GOLDEN / "tempo_tiny" / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CASES)
def test_recorded_run(systems, name):
    run = recorded(name)
    tempo = systems[int(run["nct"])]
    frames = recorded_frames(*run["frames_args"])
    is_image = run["alloc"].size == 0
    clip = tempo.open(frames[0] if is_image else frames, fps=float(run["fps"]))
    question, budget = str(run["query"]), int(run["budget"])

    _check_prompts(tempo, clip, run, question)
    visual = clip._features._cached_chunks[0]
    first = run["vision_embeds0"].shape[0]
    assert relative(visual.tokens_SVD[0, :first], run["vision_embeds0"]) < TOLERANCE
    assert relative(visual.deepstack_FSVD[:, 0, :first], run["deepstack0"]) < TOLERANCE

    seen = clip.inspect(question, budget=budget)
    assert relative(seen.relevance, run["rel"]) < TOLERANCE
    assert relative(seen.memory, run["mem"]) < TOLERANCE
    np.testing.assert_array_equal(seen.allocation, run["alloc"].astype(int))
    assert seen.sequence_length == int(run["seq_len"])
    assert relative(seen.logits[:4096], run["last_logits"]) < TOLERANCE
    top = np.argsort(-seen.logits)[:8]
    np.testing.assert_array_equal(top, run["top8_ids"])
    assert relative(seen.logits[top], run["top8_logits"]) < TOLERANCE

    prefilled = clip.prefill(question, Options(budget=budget, max_new_tokens=12)).prefilled
    assert relative(prefilled.hidden_BD[0], run["all_last_hidden"]) < TOLERANCE
    sums = np.asarray(prefilled.embeddings_BL)[0, : seen.sequence_length]
    assert relative(sums, run["embeds_sum"]) < TOLERANCE
    answer = clip.ask(question, budget=budget, max_new_tokens=12)
    assert list(answer.token_ids) == run["gen"].tolist()


def _check_prompts(tempo, clip, run, question):
    tokenizer, plan = tempo.tokenizer, clip.layout
    ids, length = layout.pad_question(tokenizer, question, tempo.config.memory_tokens)
    rows = plan.chunks[0].prompts.token_ids_SL
    for row, n, expected in zip(rows, plan.chunks[0].prompt_length_C, run["vlm_input_ids"], strict=False):
        whole = [*row[:n], *ids[:length]]
        np.testing.assert_array_equal(whole, expected[: len(whole)])
        assert set(expected[len(whole) :]) <= {QWEN_IDS.end_of_text}
    if run["tag_ids"].size:
        np.testing.assert_array_equal(plan.tags_ST[: plan.num_segments, :12], run["tag_ids"])
    np.testing.assert_array_equal(
        [*tokenizer.llm_prefix_ids, IMAGE_PLACEHOLDER, *tokenizer.llm_suffix_ids(question)], run["ids"]
    )
    height, width = plan.steps[-1]
    np.testing.assert_array_equal(run["grid"][:, 1:], [[height // 16, width // 16]] * plan.num_segments)
    slices = [s.num_slices for s in plan.segments] or [1]
    np.testing.assert_array_equal(run["grid"][:, 0], slices)


def test_recorded_training_prompt():
    run, tokenizer = recorded("train_one"), RecordedTokenizer()
    (sample,) = json.loads(str(run["samples"]))
    conversation = sample["conversation"]
    first = {**conversation[0], "value": "<image>\n" + conversation[0]["value"]}
    ids, labels = tokenizer.training_prompt([first, *conversation[1:]])
    np.testing.assert_array_equal(ids, run["input_ids"][0])
    np.testing.assert_array_equal(labels, run["labels"][0])
    for segment, expected in enumerate(run["vlm_input_ids"]):
        slices = min(4, (sample["T"] - 8 * segment + 1) // 2)
        seconds = [(8 * segment + 2 * j + 0.5) / 2 for j in range(slices)]
        visual = int((expected == 151_656).sum()) // slices
        row = tokenizer.prefix_row(seconds, visual, training=True)
        row += tokenizer.question_ids(training_query(conversation))
        np.testing.assert_array_equal(row, expected[: len(row)])


def test_the_released_files_convert_and_answer(qwen_tokenizer_dir, tmp_path):
    """Written by the recording's own script, with the real tokenizer; skips where they are not at hand."""
    script = qwen_tokenizer_dir.parent / "make_tiny_tempo.py"
    if not script.is_file():
        pytest.skip(f"no {script.name} beside the Qwen tokenizer")
    subprocess.run([sys.executable, script, tmp_path, "--shards", "2"], check=True)
    base = tmp_path / "Qwen3-VL-2B-Instruct"
    from_hf.convert("tempo", tmp_path / "Tempo-6B", tmp_path / "native", base=base)
    run = recorded("c_tail")
    answer = tempo_jax.load(tmp_path / "native").ask(
        recorded_frames(*run["frames_args"]),
        str(run["query"]),
        budget=int(run["budget"]),
        fps=float(run["fps"]),
        max_new_tokens=12,
    )
    assert list(answer.token_ids) == run["gen"].tolist()
    assert [s.tokens for s in answer.segments] == run["alloc"].tolist()
