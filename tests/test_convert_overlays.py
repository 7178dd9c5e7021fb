"""FP8 weights and LoRA adapters on the way in, as transformers and PEFT compute them."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live comparison needs the test extra's PyTorch")

from safetensors.torch import load_file, save_file  # noqa: E402

from convert import direct, from_hf, hub, logits, native_io, safetensors_io, to_hf, verify  # noqa: E402
from tempo_jax import sharding  # noqa: E402
from tempo_jax.errors import TempoError  # noqa: E402
from tempo_jax.utils.tree import flatten  # noqa: E402
from tests import convert_models as models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [32, 16]}


def write_fp8(folder, kind="qwen3", scale=torch.float32):
    """A checkpoint with its decoder's matrices in FP8, a scale for each block."""
    folder = models.write(folder, kind, tied=True, dtype="bf16")
    state = load_file(folder / "model.safetensors")
    rows, columns = FP8["weight_block_size"]
    for name in [n for n in state if n.endswith("_proj.weight")]:
        x = state[name].float()
        blocks = x.reshape(x.shape[0] // rows, rows, x.shape[1] // columns, columns)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        state[name] = (blocks / scales).reshape(x.shape).to(torch.float8_e4m3fn)
        state[f"{name}_scale_inv"] = scales[:, 0, :, 0].contiguous().to(scale)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | {"quantization_config": FP8}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16])
def test_block_scaled_fp8_becomes_bfloat16(tmp_path, scale):
    hf = write_fp8(tmp_path / "hf", scale=scale)
    from_hf.convert("qwen3", hf, tmp_path / "native")
    (q,) = native_io.stored_arrays(tmp_path / "native", ["layers/attention/q/kernel"])
    state = load_file(hf / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    spread = state[f"{name}_scale_inv"].float().repeat_interleave(32, 0).repeat_interleave(16, 1)
    expected = (state[name].float() * spread).bfloat16()
    assert q.dtype.name == "bfloat16"
    np.testing.assert_array_equal(q[1].T.astype(np.float32), expected.float().numpy())
    assert verify.verify(tmp_path / "native", hf).equal
    to_hf.convert(tmp_path / "native", tmp_path / "back")
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    (comparison,) = logits.compare(tmp_path / "native", tmp_path / "back")
    assert comparison.relative.max() < 1e-5


@pytest.mark.parametrize("kind", ["qwen3", "qwen3-vl"])
def test_logits_of_fp8(tmp_path, kind):
    from tempo_jax.data.minireel import tokenizer

    hf = write_fp8(tmp_path / "hf", kind)
    tokenizer.write(hf)
    from_hf.convert(kind, hf, tmp_path / "native")
    for comparison in logits.compare(tmp_path / "native", hf):
        assert comparison.relative.max() < 1e-5


def test_a_shard_of_fp8_is_the_shard_of_the_whole(tmp_path):
    hf = write_fp8(tmp_path / "hf")
    from_hf.convert("qwen3", hf, tmp_path / "native")
    mesh = sharding.make_mesh(2, 2, 2)
    _, params = direct.load_hf("qwen3", hf, mesh)
    flat = flatten(params)
    for path, array in zip(flat, native_io.stored_arrays(tmp_path / "native", list(flat))):
        np.testing.assert_array_equal(np.asarray(flat[path]), array, err_msg=path)


def test_scales_that_do_not_fit_are_a_sentence(tmp_path):
    hf = write_fp8(tmp_path / "hf")
    state = load_file(hf / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight_scale_inv"
    save_file(state | {name: state[name][:1].contiguous()}, hf / "model.safetensors")
    with pytest.raises(TempoError, match=r"q_proj\.weight_scale_inv is F32 .*fetch the model again"):
        from_hf.convert("qwen3", hf, tmp_path / "native")


PREFIX = "base_model.model."


def write_adapter(folder, hf, *, rank=4, extra=(), **changes):
    """A LoRA of random matrices on some modules of a checkpoint; what it adds, by PEFT's formula."""
    folder.mkdir()
    state = load_file(hf / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    tensors, added = {}, {}
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "bias": "none", "fan_in_fan_out": False}
    values |= {"base_model_name_or_path": "org/base", "target_modules": ["q_proj"]} | changes
    scale = values["lora_alpha"] / (rank**0.5 if values.get("use_rslora") else rank)
    for name in [n for n in state if n.endswith(("q_proj.weight", "down_proj.weight"))]:
        out, inner = state[name].shape
        down = torch.randn(rank, inner, generator=generator) * 0.1
        up = torch.randn(out, rank, generator=generator) * 0.1
        module = name.removesuffix(".weight")
        tensors |= {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
        alpha = values.get("alpha_pattern", {}).get("layers.0.self_attn.q_proj")
        mine = alpha / rank if alpha and module.endswith("layers.0.self_attn.q_proj") else scale
        added[name] = up @ down * mine
    tensors |= dict(extra)
    save_file({n: x.contiguous() for n, x in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return added


@pytest.mark.parametrize(
    "changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"layers.0.self_attn.q_proj": 3}}]
)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_an_adapter_is_merged(tmp_path, changes, dtype):
    hf = models.write(tmp_path / "hf", "qwen3", tied=False, dtype=dtype)
    added = write_adapter(tmp_path / "lora", hf, **changes)
    arguments = ["--model=qwen3", f"--source={hf}", f"--adapter={tmp_path / 'lora'}"]
    assert from_hf.main([*arguments, f"--target={tmp_path / 'native'}"]) == 0
    to_hf.convert(tmp_path / "native", tmp_path / "merged")
    state = load_file(hf / "model.safetensors")
    with safetensors_io.Reader(tmp_path / "merged") as reader:
        for name, before in state.items():
            expected = before.float() + added[name] if name in added else before.float()
            got = reader.read(name).astype(np.float32)
            np.testing.assert_allclose(got, expected.to(before.dtype).float(), rtol=1e-6, atol=1e-7)
    report = verify.verify(tmp_path / "native", hf, adapter=tmp_path / "lora")
    assert report.equal
    assert not verify.verify(tmp_path / "native", hf).equal, "the model without the adapter is another"


def test_embeddings_and_whole_modules_of_an_adapter(tmp_path):
    hf = models.write(tmp_path / "hf", "qwen3", tied=False)
    state = load_file(hf / "model.safetensors")
    embed, head = "model.embed_tokens", "lm_head.weight"
    down, up = torch.randn(4, 320) * 0.1, torch.randn(64, 4) * 0.1
    whole = state[head] + 1
    extra = {
        f"{PREFIX}{embed}.base_layer.weight": state[f"{embed}.weight"] + 1,  # as PEFT saves it beside
        f"{PREFIX}{embed}.lora_embedding_A": down,
        f"{PREFIX}{embed}.lora_embedding_B": up,
        PREFIX + head: whole,
    }
    write_adapter(tmp_path / "lora", hf, extra=extra)
    from_hf.convert("qwen3", hf, tmp_path / "native", adapter=tmp_path / "lora")
    found = native_io.stored_arrays(tmp_path / "native", ["embed/embedding", "head/kernel"])
    embedding, kernel = found
    expected = state[f"{embed}.weight"] + 1 + (up @ down).T * 4
    np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(kernel.T, whole)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"use_dora": True}, "use_dora=True.*merge it with PEFT"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"r": 8}, "has rank 4 where adapter_config.json says 8"),
    ],
)
def test_adapters_that_cannot_be_merged(tmp_path, change, words):
    hf = models.write(tmp_path / "hf", "qwen3", tied=True)
    write_adapter(tmp_path / "lora", hf)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TempoError, match=words):
        from_hf.convert("qwen3", hf, tmp_path / "native", adapter=tmp_path / "lora")


def test_an_adapter_of_another_model_is_a_sentence(tmp_path):
    hf = models.write(tmp_path / "hf", "qwen3", tied=True)
    write_adapter(
        tmp_path / "lora", hf, extra={f"{PREFIX}model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 64)}
    )
    with pytest.raises(TempoError, match=r"does not fit the model: model.layers.9.mlp.up_proj"):
        from_hf.convert("qwen3", hf, tmp_path / "native", adapter=tmp_path / "lora")
    with pytest.raises(TempoError, match="is no adapter of PEFT"):
        from_hf.convert("qwen3", hf, tmp_path / "native", adapter=hf)


@pytest.mark.parametrize(
    "kind,part,as_kind",
    [("tempo", "llm", "qwen3"), ("tempo", "compressor", "qwen3-vl"), ("xcomp", "llm", "qwen3")],
)
def test_a_part_is_a_plain_model(kind, part, as_kind, tmp_path, tiny_parts):
    """transformers loads it, it converts, and its logits are the same."""
    native, tokenizer_ids = tiny_parts[kind], part == "compressor"
    target = tmp_path / "part"
    assert to_hf.main([f"--source={native}", f"--target={target}", f"--part={part}"]) == 0
    from_hf.convert(as_kind, target, tmp_path / "again")
    for comparison in logits.compare(tmp_path / "again", target):
        assert comparison.relative.max() < 1e-5
    prefix = f"{part}/"
    again = flatten_stored(tmp_path / "again")
    whole = {p.removeprefix(prefix): x for p, x in flatten_stored(native).items() if p.startswith(prefix)}
    assert all(np.array_equal(x, whole[path]) for path, x in again.items())
    values = json.loads((target / "config.json").read_text())
    assert not tokenizer_ids or values["image_token_id"] == 12, "its small vocabulary's own"


def flatten_stored(native):
    from tempo_jax import checkpoint

    paths = list(checkpoint.param_shapes(native))
    return dict(zip(paths, native_io.stored_arrays(native, paths)))


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory):
    from tempo_jax.data.minireel import tokenizer

    root = tmp_path_factory.mktemp("parts")
    tokenizer.write(root / "tokenizer")
    base = models.write_base(root / "base", root / "tokenizer")
    for kind, below in (("tempo", {"base": base}), ("xcomp", {})):
        hf = models.write(root / f"{kind} hf", kind, tied=True, tokenizer=root / "tokenizer")
        from_hf.convert(kind, hf, root / kind, **below)
    return {"tempo": root / "tempo", "xcomp": root / "xcomp"}


def test_parts_that_there_are_not(tiny_parts, tmp_path, capsys):
    native = tiny_parts["xcomp"]
    assert to_hf.main([f"--source={native}", f"--target={tmp_path / 'x'}", "--part=compressor"]) == 2
    assert "has no part 'compressor': its parts are llm" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_target_never_takes_its_adapter(tmp_path, monkeypatch, capsys, dry):
    """Wherever it is from: the Hub's cache is a folder too."""
    hf, lora = models.write(tmp_path / "hf", "qwen3", tied=True), tmp_path / "cache" / "lora"
    lora.parent.mkdir()
    write_adapter(lora, hf)
    places = {"the source": hub.Place(hf), "the adapter": hub.Place(lora, "org/lora")}
    monkeypatch.setattr(hub, "locate", lambda what, path: places[what])
    arguments = ["--model=qwen3", f"--source={hf}", "--adapter=org/lora", "--overwrite=force", *dry]
    for target in (lora.parent, lora, lora / "new"):
        assert from_hf.main([*arguments, f"--target={target}"]) == 2
        assert "what is read" in capsys.readouterr().err
    assert (lora / "adapter_config.json").is_file() and len(list(tmp_path.iterdir())) == 2
