"""What does not convert, each in one short line that says what helps."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import from_hf, safetensors_io, verify
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tests import tiny_checkpoints as tiny

VOCAB = 64


@pytest.fixture
def llm(tmp_path):
    return tiny.write_llm(tmp_path / "hf", vocab=VOCAB)


def refused(capsys, source, tmp_path, model="qwen3", *more) -> str:
    target = tmp_path / "native"
    assert from_hf.main([f"--model={model}", f"--source={source}", f"--target={target}", *more]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and len(said.err) < 700, said.err
    assert not target.exists()
    return said.err


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename(folder, change):
    state = load_file(folder / "model.safetensors")
    save_file({change(name): x for name, x in state.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    "config,words",
    [
        ({"quant_method": "awq", "bits": 4}, "quantized by AWQ"),
        ({"quant_method": "gptq", "bits": 4}, "quantized by GPTQ"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized by bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "quantized by compressed-tensors"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "quantized by FP8 (e5m2)"),
        ({"quant_method": "fp8", "weight_block_size": None}, "quantized by FP8"),
        ({"quant_method": "mxfp4"}, "quantized by mxfp4"),
        ("odd", "quantized"),
    ],
)
def test_quantized_models_by_their_method(llm, tmp_path, capsys, config, words):
    edit(llm, quantization_config=config)
    said = refused(capsys, llm, tmp_path)
    assert words in said and "quantization_config" in said and "take the unquantized model" in said


def test_quantized_tensors_without_a_word_in_config_json(llm, tmp_path, capsys):
    state = load_file(llm / "model.safetensors")
    name = "model.layers.0.mlp.up_proj."
    del state[name + "weight"]
    state |= {name + "qweight": np.zeros((4, 4), np.int32), name + "qzeros": np.zeros((4, 4), np.int32)}
    save_file(state, llm / "model.safetensors")
    assert "quantized, as model.layers.0.mlp.up_proj.qweight shows" in refused(capsys, llm, tmp_path)


@pytest.mark.parametrize(
    "prefix,words",
    [
        (
            "base_model.model.",
            "is a PEFT adapter: give the model it belongs to as --source and this as --adapter",
        ),
        ("module.", "DistributedDataParallel"),
        ("_orig_mod.", "torch.compile"),
        ("transformer.h.", "of another architecture"),
        ("language_model.encoder.", "a Megatron checkpoint"),
        ("decoder.layers.0.self_attention.", "a Megatron checkpoint"),
        ("blk.0.", "named as GGUF"),
    ],
)
def test_names_of_other_programs(llm, tmp_path, capsys, prefix, words):
    rename(llm, lambda name: prefix + name)
    assert words in refused(capsys, llm, tmp_path)


def test_experts_are_said(llm, tmp_path, capsys):
    edit(llm, model_type="qwen3_moe")
    assert "mixed experts (MoE) are not supported, take a dense one" in refused(capsys, llm, tmp_path)
    edit(llm, model_type="qwen3")
    rename(llm, lambda name: name.replace("mlp.", "mlp.experts.0."))
    assert "a model of mixed experts (MoE): take a dense one" in refused(capsys, llm, tmp_path)


@pytest.mark.parametrize(
    "file,words",
    [("model.gguf", "GGUF weights only"), ("pytorch_model.bin", "pickled weights only"),
     ("consolidated.00.pth", "pickled weights only"), ("tf_model.h5", "TensorFlow"),
     ("flax_model.msgpack", "Flax"), ("__0_0.distcp", "distributed PyTorch"), ("model.onnx", "ONNX")],
)  # fmt: skip
def test_other_formats(llm, tmp_path, capsys, file, words):
    (llm / "model.safetensors").rename(llm / file)
    said = refused(capsys, llm, tmp_path)
    assert words in said and "safetensors" in said


def test_an_adapter_alone_says_the_command(llm, tmp_path, capsys):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-4B"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert f"--source=Qwen/Qwen3-4B --adapter={adapter} merges it" in refused(capsys, adapter, tmp_path)


def test_places_that_are_no_checkpoint(llm, tmp_path, capsys):
    cache = tmp_path / "hub"
    snapshot = cache / "models--Qwen--Qwen3-4B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for place in (cache, tmp_path, cache / "models--Qwen--Qwen3-4B"):
        assert "--source=Qwen/Qwen3-4B" in refused(capsys, place, tmp_path)
    page = "https://huggingface.co/Qwen/Qwen3-4B"
    assert "is a web page: give the model's id, --source=Qwen/Qwen3-4B\n" in refused(capsys, page, tmp_path)
    assert "--source=Qwen/Qwen3-4B@v2\n" in refused(capsys, page + "/tree/v2", tmp_path)
    assert "is a file: give the folder" in refused(capsys, llm / "model.safetensors", tmp_path)
    assert "does not exist: give the folder" in refused(capsys, tmp_path / "none", tmp_path)
    from_hf.convert("qwen3", llm, tmp_path / "done")
    assert "is a native checkpoint already" in refused(capsys, tmp_path / "done", tmp_path)
    (llm / "config.json").unlink()
    assert "holds no config.json: fetch that file" in refused(capsys, llm, tmp_path)


def test_a_wrong_model_is_no_wall(llm, tmp_path, capsys):
    """At most five names of a kind, and how many more."""
    rename(llm, lambda name: name.replace("mlp", "mlpx").replace("self_attn", "attn"))
    said = refused(capsys, llm, tmp_path)
    assert said.count("model.layers.") <= 10 and " more; unexpected: " in said


def test_fields_say_which_size_is_wrong(llm, tmp_path, capsys):
    edit(llm, intermediate_size=161)
    assert "expected [161, 80] (intermediate_size)" in refused(capsys, llm, tmp_path)
    edit(llm, intermediate_size=160, num_hidden_layers=2)
    assert "config.json's num_hidden_layers makes 2 layers where the files hold 3" in refused(
        capsys, llm, tmp_path
    )


def test_beside_the_weights_other_files_may_lie(llm, tmp_path):
    """An adapter, an optimizer's state, a consolidated copy: model.safetensors is the model."""
    for name in ("adapter_model", "optimizer", "consolidated"):
        save_file({"x": np.zeros(3, np.float32)}, llm / f"{name}.safetensors")
    from_hf.convert("qwen3", llm, tmp_path / "native")
    assert verify.verify(tmp_path / "native", llm).equal
    (llm / "model.safetensors").rename(llm / "weights.safetensors")  # a name of its own, as only one
    from_hf.convert("qwen3", llm, tmp_path / "again")


def test_a_file_that_config_json_names(llm, tmp_path, capsys):
    state = load_file(llm / "model.safetensors")
    save_file({name: x + 1 for name, x in state.items()}, llm / "other.safetensors")
    edit(llm, transformers_weights="other.safetensors")
    from_hf.convert("qwen3", llm, tmp_path / "done")
    norm = checkpoint.load_params(tmp_path / "done")["norm"]["scale"]
    np.testing.assert_array_equal(norm, state["model.norm.weight"] + 1)
    edit(llm, transformers_weights="../outside.safetensors")
    assert "names the weights" in refused(capsys, llm, tmp_path)


def test_a_tensor_in_two_shards(tmp_path, capsys):
    hf = tiny.write_llm(tmp_path / "hf", shards=2, vocab=VOCAB)
    first, second = sorted(hf.glob("*.safetensors"))
    one, two = load_file(first), load_file(second)
    name = next(iter(one))
    save_file(two | {name: one[name]}, second)
    from_hf.convert("qwen3", hf, tmp_path / "done")  # the same in both: no matter
    save_file(two | {name: one[name] + 1}, second)
    assert f"{name} is in {first.name}, {second.name} with different values" in refused(capsys, hf, tmp_path)


def test_a_header_with_a_name_twice(llm, tmp_path, capsys):
    file = llm / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip()
    entry = json.loads(text)["model.norm.weight"]
    text = text[:-1] + b',"model.norm.weight":' + json.dumps(entry).encode() + b"}"
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert "damaged header" in refused(capsys, llm, tmp_path)


def test_processor_templates_and_license_travel_both_ways(llm, tmp_path):
    from convert import to_hf

    texts = {
        "processor_config.json": "{}", "preprocessor_config.json": "{}", "LICENSE": "Apache",
        "README.md": "# M",
        "additional_chat_templates/tools.jinja": "{{ x }}", "chat_template.jinja": "{{ y }}",
        "generation_config.json": "{}",
    }  # fmt: skip
    for name, text in texts.items():
        (llm / name).parent.mkdir(exist_ok=True)
        (llm / name).write_text(text)
    (llm / "modeling_x.py").write_text("import os")
    from_hf.convert("qwen3", llm, tmp_path / "native")
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    found = {
        f.relative_to(tmp_path / "back").as_posix(): f for f in (tmp_path / "back").rglob("*") if f.is_file()
    }
    assert {name: found[name].read_text() for name in texts} == texts
    assert "modeling_x.py" not in found, "code stays behind"


def test_shards_of_the_size_asked_for(llm, tmp_path, capsys):
    from convert import to_hf

    from_hf.convert("qwen3", llm, tmp_path / "native")
    arguments = [f"--source={tmp_path / 'native'}", f"--target={tmp_path / 'back'}"]
    assert to_hf.main([*arguments, "--max-shard-size=100kB"]) == 0
    sizes = [file.stat().st_size for file in (tmp_path / "back").glob("*.safetensors")]
    assert len(sizes) > 3 and max(sizes) < 130_000
    assert verify.main([f"--native={tmp_path / 'native'}", f"--hf={tmp_path / 'back'}"]) == 0
    with pytest.raises(SystemExit) as stop:
        to_hf.main([*arguments, "--max-shard-size=big"])
    assert stop.value.code == 2 and "is no size such as 5GB" in capsys.readouterr().err
    assert [to_hf.shard_size(text) for text in ("5GB", "2MiB", "7")] == [5_000_000_000, 2 << 20, 7]


def test_a_dry_run_writes_nothing(llm, tmp_path, capsys):
    from convert import to_hf

    target = tmp_path / "native"
    arguments = ["--model=qwen3", f"--source={llm}", f"--target={target}"]
    assert from_hf.main([*arguments, "--dry-run", "--dtype=bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "35 tensors into 13 arrays" in out and "of float32 to bfloat16" in out and "to write" in out
    assert not target.exists()
    edit(llm, hidden_size=81)
    assert from_hf.main([*arguments, "--dry-run"]) == 2
    edit(llm, hidden_size=80)
    assert from_hf.main(arguments) == 0
    assert from_hf.main([*arguments, "--dry-run"]) == 2
    assert "exists already" in capsys.readouterr().err
    back = [f"--source={target}", f"--target={tmp_path / 'back'}", "--dry-run"]
    assert to_hf.main(back) == 0
    assert "nothing is written" in capsys.readouterr().out and not (tmp_path / "back").exists()


def test_a_target_without_room_is_told_before_a_byte_is_written(llm, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(TempoError, match=r"needs 0\.00 GB and 0\.00 GB are free there"):
        from_hf.convert("qwen3", llm, tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_our_files_are_known_by_their_header(llm, tmp_path):
    """So that --overwrite replaces an export, and nothing that somebody put there."""
    from convert import to_hf

    from_hf.convert("qwen3", llm, tmp_path / "native")
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    to_hf.convert(tmp_path / "native", tmp_path / "back", overwrite=True)
    assert safetensors_io.Reader(tmp_path / "back").infos
    with pytest.raises(TempoError, match="did not write"):
        to_hf.convert(tmp_path / "native", llm, overwrite=True)
    (tmp_path / "back" / "notes.py").write_text("mine")
    with pytest.raises(TempoError, match=r"did not write \(notes\.py\)"):
        to_hf.convert(tmp_path / "native", tmp_path / "back", overwrite=True)
