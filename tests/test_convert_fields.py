"""Every field of config.json: read as transformers reads it, or refused by its name."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live comparison needs the test extra's PyTorch")
transformers = pytest.importorskip("transformers")

from convert import from_hf, hf_config, hf_export, logits, their_config, to_hf, verify  # noqa: E402
from tempo_jax import checkpoint  # noqa: E402
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer  # noqa: E402
from tempo_jax.errors import TempoError  # noqa: E402
from tests import convert_models as models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT, VISION, ROOT = "text_config.", "vision_config.", ""
# Other values of fields whose names say nothing of what they may be.
OTHERS = {
    "hidden_act": ["gelu", "relu"],
    "layer_types": [["full_attention", "sliding_attention", "full_attention"]],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 64},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
        {"full_attention": {"rope_type": "default", "rope_theta": 5.0}},
        {"rope_theta": 9e5},
        None,
    ],
    "rope_scaling": [{"rope_type": "yarn", "factor": 4.0}, {"type": "linear", "factor": 2.0},
                     {"rope_type": "default", "rope_theta": 77.0}, None],
    "rope_theta": [123.0, None],
    "deepstack_visual_indexes": [[2, 0, 1], [0, 0, 1], [0, 1, 9], []],
    "num_key_value_heads": [None, 1, 4],
    "dtype": ["bfloat16"],
    "tie_word_embeddings": [True],
    "is_causal": [False],
    "quantization_config": [{"quant_method": "awq"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}],
    "patch_size": [[16, 16], 8],
    "eos_token_id": [[1, 2], 3],
    "head_dim": [None, 32, 15],
    "use_sliding_window": [True],
    "transformers_version": ["5.0.0", None],
    "architectures": [["Qwen3Model"]],
    "text_config": [], "vision_config": [], "label2id": [], "id2label": [],
}  # fmt: skip


def others(name, value) -> list:
    """Values that a field has not."""
    if name in OTHERS:
        return OTHERS[name]
    if name.endswith(("_token_id", "_size", "_length")) and value is None:
        return [7]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2]
    if isinstance(value, float):
        return [value * 2 + 0.001]
    return [["x"]] if isinstance(value, list) else ["other"]


def fields(kind: str) -> list[tuple[str, str, object]]:
    """(section, field, other value) of every field of the classes, and of some that files have besides."""
    base = models.config_json(kind, False, "5")
    sections = {ROOT: base}
    classes = {ROOT: transformers.Qwen3Config if kind == "qwen3" else transformers.Qwen3VLConfig}
    if kind == "qwen3-vl":
        sections |= {TEXT: base["text_config"], VISION: base["vision_config"]}
        defaults = transformers.Qwen3VLConfig()
        classes |= {TEXT: type(defaults.text_config), VISION: type(defaults.vision_config)}
    out = []
    for section, values in sections.items():
        names = dict(values)
        for name, value in classes[section]().to_dict().items():
            names.setdefault(name, value)
        extra = (
            {"rope_scaling", "rope_theta", "is_causal", "head_dim"} if section else {"quantization_config"}
        )
        if kind == "qwen3" or section == TEXT:
            extra |= {"rope_scaling", "rope_theta", "is_causal"}
        for name in sorted(names.keys() | extra):
            if name in ("model_type", "transformers_version") and section:
                continue
            out += [(section, name, other) for other in others(name, names.get(name))]
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Untied checkpoints of both kinds, to change a field of."""
    root = tmp_path_factory.mktemp("whole")
    tokenizer = root / "tokenizer"
    minireel_tokenizer.write(tokenizer)
    return {k: models.write(root / k, k, tied=False, tokenizer=tokenizer) for k in ("qwen3", "qwen3-vl")}


def change(folder, section: str, name: str, value):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    target = values[section[:-1]] if section else values
    target[name] = value
    path.write_text(json.dumps(values))


def linked(source, target):
    """The same folder without copying the weights."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    text = (source / "config.json").read_text()
    (target / "config.json").unlink()
    (target / "config.json").write_text(text)
    return target


CASES = [(kind, *case) for kind in ("qwen3", "qwen3-vl") for case in fields(kind)]


@pytest.mark.parametrize("kind,section,name,value", CASES, ids=lambda x: str(x)[:40])
def test_a_changed_field_is_followed_or_refused_by_name(kind, section, name, value, whole, tmp_path):
    hf = linked(whole[kind], tmp_path / "hf")
    change(hf, section, name, value)
    try:
        from_hf.convert(kind, hf, tmp_path / "native")
    except TempoError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert name in said and "\n" not in said and len(said) < 1500
        return
    values = json.loads((hf / "config.json").read_text())
    config = checkpoint.read_model_json(tmp_path / "native").config
    if name != "transformers_version":
        assert their_config.differences(kind, config, hf) == []
        assert verify.verify(tmp_path / "native", hf).equal
    if config == checkpoint_config(kind, whole) or value not in (others(name, None)[0], []):
        return  # an architecture that the matrix has, or one of several values: transformers reads the same
    for comparison in logits.compare(tmp_path / "native", hf):
        assert comparison.relative.max() < 1e-5, (values, comparison.lines()[0])


_CONFIGS: dict = {}


def checkpoint_config(kind, whole):
    if kind not in _CONFIGS:
        values = hf_config.read_json(whole[kind])
        parse = {"qwen3": hf_config.qwen3, "qwen3-vl": hf_config.qwen3_vl}[kind]
        ids = {"ids": hf_config.tokenizer_ids(whole[kind])} if kind == "qwen3-vl" else {}
        _CONFIGS[kind] = parse(values, [], **ids)
    return _CONFIGS[kind]


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 50.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 50.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0},
         "rope_scaling": {"rope_type": "default"}, "rope_theta": 50.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_scaling": {}},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 50.0},
        {"rope_theta": 50.0},
        {},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["qwen3", "qwen3-vl", "qwen2"])
def test_rope_settings_as_transformers_5_reads_them(kind, rope):
    values = models.config_json(kind, False, "5")
    text = values["text_config"] if kind == "qwen3-vl" else values
    sections = (text.pop("rope_parameters") or {}).get("mrope_section")
    text |= copy.deepcopy(rope)
    parse = hf_config.qwen3_vl if kind == "qwen3-vl" else hf_config.qwen3
    ids = {"ids": {"image_pad": 12, "video_pad": 13, "vision_start": 9, "vision_end": 10}}
    config = parse(values, [], **(ids if kind == "qwen3-vl" else {}))
    theirs = {"qwen3": transformers.Qwen3Config, "qwen2": transformers.Qwen2Config}.get(
        kind, transformers.Qwen3VLConfig
    )
    parsed = theirs.from_dict(copy.deepcopy(values))
    params = (parsed.text_config if kind == "qwen3-vl" else parsed).rope_parameters
    assert (config.text if kind == "qwen3-vl" else config).rope_theta == params["rope_theta"]
    assert sections is None or params.get("mrope_section") is None


# What transformers 4.57.1 was seen to read, where 5 reads otherwise.
GENERATIONS = [
    ("qwen3", {"rope_theta": 5.0, "rope_scaling": {"rope_type": "default", "rope_theta": 7.0}}, 5.0, 7.0),
    ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 1e6, 7.0),
    ("qwen3-vl", {"rope_theta": 5.0, "rope_scaling": {"rope_type": "default", "rope_theta": 7.0}}, 5.0, 7.0),
]


@pytest.mark.parametrize("kind,rope,four,five", GENERATIONS)
def test_a_file_is_read_as_the_generation_that_wrote_it(kind, rope, four, five, whole, tmp_path, capsys):
    for version, theta in (("4.57.1", four), ("5.23.0", five), (None, five)):
        hf = linked(whole[kind], tmp_path / f"hf {version}")
        values = models.config_json(kind, False, "4.57")
        (values["text_config"] if kind == "qwen3-vl" else values).update(copy.deepcopy(rope))
        values["transformers_version"] = version
        (hf / "config.json").write_text(json.dumps(values))
        native = tmp_path / f"native {version}"
        assert from_hf.main([f"--model={kind}", f"--source={hf}", f"--target={native}"]) == 0
        err = capsys.readouterr().err
        assert "rope_theta is" in err and f"(transformers {4 if theta == five else 5}:" in err
        config = checkpoint.read_model_json(native).config
        assert (config.text if kind == "qwen3-vl" else config).rope_theta == theta
        found = verify.verify(native, hf)
        assert found.equal, found.differing
        assert bool(found.notes) == (theta == four), "the installed transformers 5 reads it otherwise: said"
        to_hf.convert(native, tmp_path / f"back {version}")
        assert json.loads((tmp_path / f"back {version}" / "config.json").read_text()) == values


def test_a_usual_file_has_no_notes(whole, tmp_path, capsys):
    for version in ("5", "4.57"):
        for kind in ("qwen3", "qwen3-vl", "qwen2"):
            notes = []
            parse = hf_config.qwen3_vl if kind == "qwen3-vl" else hf_config.qwen3
            ids = {"image_pad": 12, "video_pad": 13, "vision_start": 9, "vision_end": 10}
            parse(
                models.config_json(kind, True, version), notes, **({"ids": ids} if kind == "qwen3-vl" else {})
            )
            assert notes == []


def test_heads_are_tied_where_the_generation_looks(whole, tmp_path):
    """transformers 5 at the top, 4.57 in text_config."""
    values = models.config_json("qwen3-vl", False, "4.57")
    values["text_config"]["tie_word_embeddings"] = True
    for version, tied in (("4.57.1", True), ("5.23.0", False)):
        notes = []
        found = hf_config.qwen3_vl(values | {"transformers_version": version}, notes, ids={
            "image_pad": 12, "video_pad": 13, "vision_start": 9, "vision_end": 10})  # fmt: skip
        assert found.text.tie_embeddings == tied and "tie_word_embeddings" in notes[0]


def test_verify_is_not_blind_to_our_own_reading(whole, tmp_path, monkeypatch):
    """Were our parser wrong, transformers' own reading and the logits would say so."""
    hf = linked(whole["qwen3"], tmp_path / "hf")
    real = hf_config.rope

    def wrong(fields, *args):
        return dataclasses.replace(real(fields, *args), theta=50.0)

    with monkeypatch.context() as patch:
        patch.setattr(hf_config, "rope", wrong)
        with pytest.raises(
            TempoError, match=r"rope_theta is 50.0 in model.json, transformers .* reads 1000000"
        ):
            from_hf.convert("qwen3", hf, tmp_path / "native")
        patch.setattr(from_hf, "_check_reading", lambda opened: None)
        from_hf.convert("qwen3", hf, tmp_path / "native")
        assert hf_export.describes("qwen3", checkpoint.read_model_json(tmp_path / "native").config,
                                   hf_config.read_json(hf))  # fmt: skip
        report = verify.verify(tmp_path / "native", hf)
    assert report.differing == [
        "config.json: rope_theta is 50.0 in model.json, transformers 5.23.0 reads 1000000.0"
    ]
    (comparison,) = logits.compare(tmp_path / "native", hf)
    assert not comparison.equal and comparison.relative.max() > 0.01


def test_verify_prints_logits_per_position_and_ends_with_1(whole, tmp_path, capsys):
    hf = linked(whole["qwen3-vl"], tmp_path / "hf")
    from_hf.convert("qwen3-vl", hf, tmp_path / "native")
    capsys.readouterr()
    arguments = [f"--native={tmp_path / 'native'}", f"--hf={hf}", "--logits"]
    assert verify.main(arguments) == 0
    out = capsys.readouterr().out
    for words in (
        "tokens: largest relative difference",
        "image: ",
        "video: ",
        "KL",
        "top 10/10",
        "logits agree",
    ):
        assert words in out
    other = models.state("qwen3-vl", False)
    params = checkpoint.load_params(tmp_path / "native")
    params["text"]["layers"]["mlp"]["up"]["kernel"] += 0.01
    assert other
    model = checkpoint.read_model_json(tmp_path / "native")
    checkpoint.save(tmp_path / "changed", model.kind, model.config, jax.tree.map(np.asarray, params))
    assert verify.main([f"--native={tmp_path / 'changed'}", f"--hf={hf}", "--logits"]) == 1
    out = capsys.readouterr().out
    assert "logits differ" in out and "mlp.up_proj.weight: largest difference 0.01" in out


def test_logits_of_a_checkpoint_that_was_cast(whole, tmp_path, capsys):
    """Against PyTorch's model rounded in the same way; the tensors are equal after the cast."""
    hf = whole["qwen3"]
    from_hf.convert("qwen3", hf, tmp_path / "native", dtype="bfloat16")
    capsys.readouterr()
    assert verify.main([f"--native={tmp_path / 'native'}", f"--hf={hf}", "--logits"]) == 0
    assert "equal after the cast" in capsys.readouterr().out
