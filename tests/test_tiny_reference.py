"""The tiny reference checkpoints: the recorded runs' tensors, and configs that say what was meant."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from convert import hf_config
from tempo_jax.models.presets import TINY

REPO = Path(__file__).resolve().parent.parent


def load_example():
    spec = importlib.util.spec_from_file_location("tiny_reference", REPO / "examples" / "tiny_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_reference = load_example()

# A few hundred rows of vocabulary instead of 151,936: the same code in no time.
small = dataclasses.replace(TINY.llm, vocab_size=300)
SMALL = dataclasses.replace(
    TINY,
    llm=small,
    compressor=dataclasses.replace(
        TINY.compressor, text=dataclasses.replace(TINY.compressor.text, vocab_size=300)
    ),
)


def stored(folder):
    """Tensor name to values over all files of a folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("memory_tokens", [16, 128])
def test_names_and_shapes_are_the_published_ones(golden, memory_tokens):
    config = dataclasses.replace(TINY, memory_tokens=memory_tokens)
    recorded = json.loads((golden / f"tempo_tiny/shapes_k{memory_tokens}.json").read_text())
    assert tiny_reference.shapes("tempo", config) == {n: tuple(s) for n, s in recorded.items()}
    prefix = "model.vision_tower_aux_list.0.vlm."
    base = {n.removeprefix(prefix): tuple(s) for n, s in recorded.items() if n.startswith(prefix)}
    assert tiny_reference.shapes("qwen3-vl", config.compressor) == base


def test_values_follow_the_recorded_rule(golden):
    spec = importlib.util.spec_from_file_location("recorded_rule", golden / "tiny_weights.py")
    recorded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorded)
    for name, shape in tiny_reference.shapes("tempo", SMALL).items():
        ours = tiny_reference.tensor(name, shape)
        assert ours.dtype == np.float32  # NumPy 2 makes some of the recorded rule's values float64
        np.testing.assert_array_equal(ours, recorded.tensor(name, shape).astype(np.float32))


@pytest.mark.parametrize("shards", [1, 3])
def test_written_checkpoint(tmp_path, shards):
    tempo, base = tiny_reference.write(tmp_path, SMALL, shards=shards, fill=False)
    shapes = tiny_reference.shapes("tempo", SMALL)
    values = stored(tempo)
    assert {name: x.shape for name, x in values.items()} == shapes
    assert len(list(tempo.glob("*.safetensors"))) == shards
    assert (tempo / "model.safetensors.index.json").exists() == (shards > 1)
    name = "model.language_model.embed_tokens.weight"
    np.testing.assert_array_equal(
        stored(base)[name], tiny_reference.tensor("base." + name, stored(base)[name].shape)
    )
    assert hf_config.parse("tempo", tempo, set(values), base) == SMALL
    assert (tempo / "tokenizer.json").exists()
    assert (base / "chat_template.jinja").exists()
