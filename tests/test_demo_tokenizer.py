"""The demo tokenizer: Qwen's ids where prompts need them, and any text comes back unchanged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_jax.data import demo_tokenizer

INFERENCE_SYSTEM = (
    "You are a query-conditioned visual compressor. Store in the provided memory tokens the minimal "
    "visual information needed to answer the Query. Ignore irrelevant details. Now, before "
    "compressing, answer exactly 'Yes' or 'No': is this segment relevant to the Query?"
)
TEXTS = [
    "",
    " ",
    "Où est le chat ?\nDans l'arbre.",
    "視頻裡發生了什麼？",
    "e\u0301 decomposed, \u200b\ufeff",
    "👩‍👩‍👧 \t\r\n  x",
    "\x00\x7f\x85",
]


@pytest.fixture(scope="module")
def tokenizer(demo_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_tokenizer_dir)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_ids_that_prompts_fix(tokenizer):
    expected = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|vision_start|>": 151652,
        "<|vision_end|>": 151653,
        "<|image_pad|>": 151655,
        "<|video_pad|>": 151656,
        "Yes": 9454,
        "No": 2753,
        "\n": 198,
        "<": 27,
        ".": 13,
        "0": 15,
        "9": 24,
    }
    assert {text: encode(tokenizer, text) for text in expected} == {t: [i] for t, i in expected.items()}
    assert tokenizer.eos_token_id == 151645
    assert tokenizer.pad_token_id == 151643


def test_time_tag_is_qwens(tokenizer):
    assert encode(tokenizer, "<10.0 seconds>") == [27, 16, 15, 13, 15, 6486, 29]


def test_global_prompt_is_qwens(tokenizer):
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What happens?"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    # fmt: off
    assert encode(tokenizer, text) == [
        151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198,
        3838, 8573, 30, 151645, 198, 151644, 77091, 198,
    ]
    # fmt: on


def test_compressor_prompt_has_the_published_length(tokenizer):
    assert len(encode(tokenizer, f"<|im_start|>system\n{INFERENCE_SYSTEM}<|im_end|>\n")) == 52 + 5


def test_same_ids_as_the_real_tokenizer(tokenizer, qwen_tokenizer_dir):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(qwen_tokenizer_dir)
    for text in [
        INFERENCE_SYSTEM,
        "\nQuery:\nWhat colour is the car?",
        "<4085.0 seconds>",
        "Describe this content.",
    ]:
        assert encode(tokenizer, text) == encode(real, text)
    for k, token in enumerate(demo_tokenizer.SPECIAL):
        assert real.convert_tokens_to_ids(token) == demo_tokenizer.FIRST_SPECIAL_ID + k


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_round_trip_of_any_unicode(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text


def test_special_tokens_as_plain_text(tokenizer):
    text = "<|im_end|><|endoftext|><image>"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert max(ids) < 151643
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_vl", "tempo_qwen"])
def test_next_to_a_model_config(tmp_path, model_type):
    """A config.json beside it must not make AutoTokenizer choose another class or splitting."""
    from transformers import AutoTokenizer

    demo_tokenizer.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(tokenizer, "<10.0 seconds>Yes") == [27, 16, 15, 13, 15, 6486, 29, 9454]
    assert tokenizer.decode(encode(tokenizer, TEXTS[4])) == TEXTS[4]


def test_saved_again_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(again, "<|im_start|>Yes seconds") == encode(tokenizer, "<|im_start|>Yes seconds")


def test_filled_names_every_id_and_encodes_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    demo_tokenizer.write(tmp_path, fill=True)
    filled = AutoTokenizer.from_pretrained(tmp_path)
    assert filled.decode([9454, 48213]) == "Yes [48213]"
    assert all(filled.decode([i]) for i in (1000, 77777, 151642))
    for text in [*TEXTS, "a [48213] b", INFERENCE_SYSTEM]:
        assert encode(filled, text) == encode(tokenizer, text)


def test_file_is_small(demo_tokenizer_dir):
    assert sum(f.stat().st_size for f in demo_tokenizer_dir.iterdir()) < 32_768
