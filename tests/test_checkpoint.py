"""Native checkpoints: what is saved loads, on any mesh; anything else is a sentence."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from convert import mapping, native_io
from tempo_jax import checkpoint, sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import build, stacks
from tempo_jax.models import config as model_config
from tempo_jax.training import checkpoints
from tempo_jax.utils import digests, mounts, stored_arrays
from tempo_jax.utils.tree import flatten, nest
from tests import tiny_checkpoints as tiny

CONFIG = tiny.tiny_config(16, 64)
REPO = Path(__file__).resolve().parent.parent
SHIPPED = REPO / "checkpoints" / "demo"


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    shapes = mapping.native_shapes("tempo", CONFIG)
    return nest({path: jnp.asarray(rng.standard_normal(s), jnp.float32) for path, s in shapes.items()})


@pytest.fixture(scope="module")
def saved(tmp_path_factory, params, demo_tokenizer_dir):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    checkpoint.save(folder, "tempo", CONFIG, params, demo_tokenizer_dir, {"note": "random"})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """The saved checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def assert_equal(tree, other):
    one, two = flatten(tree), flatten(other)
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], two[path], err_msg=path)


def test_over_a_network_files_are_read_and_not_mapped(saved, monkeypatch):
    """A mapped page whose network fails ends the process (SIGBUS), where a read is an error."""
    mapped = flatten(checkpoint.load_params(saved, verify=True))
    monkeypatch.setattr(mounts, "file_system", lambda path: "fuse.gcsfuse")
    read = flatten(checkpoint.load_params(saved, verify=True))
    assert mapped.keys() == read.keys() and all(np.array_equal(mapped[path], read[path]) for path in read)


def test_what_is_saved_loads(saved, params):
    model = checkpoint.read_model_json(saved, "tempo")
    assert (model.kind, model.config, model.origin) == ("tempo", CONFIG, {"note": "random"})
    assert (checkpoint.tokenizer_path(saved) / "tokenizer.json").is_file()
    loaded = checkpoint.load_params(saved)
    assert_equal(loaded, params)
    build.build(model.config, loaded)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("shape", [None, (2, 2, 2)])
def test_arrays_are_what_orbax_loads_and_layers_are_not_copied(saved, monkeypatch, dtype, shape):
    mesh = None if shape is None else sharding.make_mesh(*shape)
    ours = checkpoint.load_params(saved, dtype=dtype, shardings=mesh)
    separate = flatten(checkpoint.load_params(saved, dtype=dtype, shardings=mesh, per_layer=True))
    monkeypatch.setattr(stored_arrays, "is_readable", lambda folder: False)
    theirs = checkpoint.load_params(saved, dtype=dtype, shardings=mesh)
    one, two = flatten(ours), flatten(theirs)
    assert one.keys() == two.keys()
    for path, x in one.items():
        assert (x.sharding, x.dtype, x.committed) == (two[path].sharding, two[path].dtype, True)
        np.testing.assert_array_equal(x, two[path])
    unstacked = flatten(stacks.unstack_layers(theirs))
    assert separate.keys() == unstacked.keys()
    for path, x in separate.items():
        assert (x.sharding, x.committed) == (unstacked[path].sharding, True)
        np.testing.assert_array_equal(x, unstacked[path])
    layers = [separate[f"llm/layers/{i}/mlp/up/kernel"] for i in (0, 1)]
    if mesh is None:  # neighbors in the memory that they were read into
        first, second = (x.unsafe_buffer_pointer() for x in layers)
        assert second - first == layers[0].nbytes


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_orbax_reads_it_alone(saved, params):
    """No code of ours is needed to read the parameters."""
    shapes = jax.tree.map(lambda x: np.ndarray, checkpoint.load_params(saved))
    assert_equal(ocp.load(saved / "params", shapes), params)


def test_tells_nothing_of_the_machine(saved, tmp_path, params):
    """However it is written, no file of a checkpoint names the folder it was written to."""
    with native_io.saving(tmp_path / "streamed", "tempo", CONFIG) as put:
        for path, x in flatten(params).items():
            put(path, np.asarray(x))
    checkpoints.save_frozen(tmp_path, "tempo", CONFIG, flatten(params), checkpoint.tokenizer_path(saved), {})
    for folder in (saved, tmp_path / "streamed", tmp_path / "frozen"):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files and not [f for f in files if str(folder.parent).encode() in f.read_bytes()]


def test_dtype_on_the_way_in(saved):
    loaded = flatten(checkpoint.load_params(saved, dtype=jnp.bfloat16))
    other = {path for path, x in loaded.items() if x.dtype != jnp.bfloat16}
    assert other == {"compressor/relevance/direction"}
    assert loaded["compressor/relevance/direction"].dtype == jnp.float32


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_onto_a_mesh_and_back(saved, params, tmp_path, shape):
    mesh = sharding.make_mesh(*shape)
    loaded = checkpoint.load_params(saved, shardings=mesh)
    for path, x in flatten(loaded).items():
        assert x.sharding == sharding.param_sharding(path, x.shape, mesh)
    assert_equal(loaded, params)
    checkpoint.save(tmp_path / "sharded", "tempo", CONFIG, loaded)
    assert_equal(checkpoint.load_params(tmp_path / "sharded"), params)


def test_given_shardings(saved):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    loaded = checkpoint.load_params(saved, shardings={"llm": {"norm": {"scale": where}}})
    assert loaded["llm"]["norm"]["scale"].devices() == {jax.devices()[3]}
    assert loaded["projector"]["layers"]["0"]["bias"].devices() == {jax.devices()[0]}


def test_one_array_at_a_time(tmp_path, params, monkeypatch):
    """Streamed writing gives the same checkpoint, whatever is grouped with what."""
    monkeypatch.setattr(native_io, "BATCH_BYTES", 20_000)
    flat = flatten(params)
    with native_io.saving(tmp_path / "model", "tempo", CONFIG) as put:
        for path, x in flat.items():
            put(path, np.asarray(x))
    assert_equal(checkpoint.load_params(tmp_path / "model"), params)
    for path, x in zip(flat, native_io.stored_arrays(tmp_path / "model", list(flat)), strict=True):
        np.testing.assert_array_equal(x, flat[path])


def test_large_arrays_are_stored_in_chunks(tmp_path, monkeypatch):
    """A host of a pod can read a part of an array: it is stored in pieces along both wide axes."""
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 1 << 18)
    with native_io.saving(tmp_path / "model", "tempo", CONFIG) as put:
        put("llm/layers/mlp/up/kernel", np.zeros((4, 512, 640), np.float32))
    leaf = checkpoint.param_shapes(tmp_path / "model")["llm/layers/mlp/up/kernel"]
    _, rows, columns = leaf.storage_metadata.chunk_shape
    assert rows <= 256 and columns <= 320


def test_failed_save_leaves_nothing_and_keeps_the_old(saved, copy, params):
    class Config:  # not a dataclass: describing it fails after the arrays are written
        pass

    with pytest.raises(TypeError):
        checkpoint.save(copy, "tempo", Config(), params, overwrite=True)
    with pytest.raises(TypeError):
        checkpoint.save(copy.parent / "new", "tempo", Config(), params)
    assert [f.name for f in copy.parent.iterdir()] == ["copy"]
    assert_equal(checkpoint.load_params(copy), params)
    with pytest.raises(TempoError, match="exists already"):
        checkpoint.save(copy, "tempo", CONFIG, params)


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_model_json_mistakes(copy, tmp_path):
    def message(folder, kind=None):
        with pytest.raises(TempoError) as caught:
            checkpoint.read_model_json(folder, kind)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a folder" in message(tmp_path / "nowhere")
    assert "holds no model.json" in message(tmp_path)
    assert "kind 'tempo' where 'qwen3' is needed" in message(copy, "qwen3")
    edit(copy, format=2)
    assert "update tempo_jax" in message(copy)
    edit(copy, format=1, kind="spaceship")
    assert "unknown kind 'spaceship'" in message(copy)
    edit(copy, kind="tempo", config={"depth": 3})
    assert "is damaged" in message(copy)
    (copy / "model.json").write_text("{")
    assert "is damaged" in message(copy)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").touch()
    assert "convert.from_hf" in message(tmp_path / "hf")


def test_missing_parts_are_named(copy):
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(TempoError, match="holds no tokenizer"):
        checkpoint.tokenizer_path(copy)
    shutil.rmtree(copy / "params")
    with pytest.raises(TempoError, match="no params folder"):
        checkpoint.load_params(copy)


@pytest.mark.parametrize("what", ["data", "metadata", "commit", "all"])
def test_damaged_params_are_a_sentence(copy, what):
    for file in [f for f in (copy / "params").rglob("*") if f.is_file()]:
        if what == "data" and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif (what == "metadata" and file.name == "_METADATA") or what == "all":
            file.write_bytes(b"")
        elif what == "commit" and file.name == "manifest.ocdbt":
            file.unlink()
    with pytest.raises(TempoError, match="damaged or incomplete"):
        checkpoint.load_params(copy)


WORKER = """if True:
    import os, sys
    rank, port, folder, source = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    import jax, numpy as np
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    from convert import direct, safetensors_io
    from tempo_jax import checkpoint, sharding
    from tempo_jax.utils.tree import flatten
    mesh = sharding.make_mesh(1, 4, 1)
    safetensors_io.MIN_RUN_BYTES = 1
    counts, real = [], safetensors_io.Reader._range
    safetensors_io.Reader._range = lambda self, i, a, b: counts.append(b - a) or real(self, i, a, b)
    _, params = direct.load_hf("qwen3", source, mesh)
    mine = [{str(s.index): s.data.nbytes for s in x.addressable_shards} for x in flatten(params).values()]
    assert sum(counts) == sum(sum(sizes.values()) for sizes in mine)
    whole = sum(x.nbytes for x in flatten(params).values())
    assert sum(counts) < 0.6 * whole
    config = __import__("tests.tiny_checkpoints", fromlist=["x"]).tiny_config(16, 64).llm
    checkpoint.save(folder, "qwen3", config, params)
    again = checkpoint.load_params(folder, shardings=mesh)
    again = flatten(again)
    for path, a in flatten(params).items():
        for x, y in zip(a.addressable_shards, again[path].addressable_shards, strict=True):
            np.testing.assert_array_equal(x.data, y.data)
"""


def test_two_processes_read_and_write_their_own_shards(tmp_path):
    source = tiny.write_llm(tmp_path / "hf", vocab=64)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    commands = [
        [sys.executable, "-c", WORKER, str(rank), str(port), str(tmp_path / "native"), str(source)]
        for rank in range(2)
    ]
    workers = [subprocess.Popen(c, cwd=REPO, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [worker.communicate(timeout=100)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)[-3000:]
    expected = tiny.tensors("qwen3", CONFIG.llm)
    loaded = flatten(checkpoint.load_params(tmp_path / "native"))
    down = expected["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(loaded["layers/mlp/down/kernel"][1], down.T)


def data_files(folder):
    return [file for file in sorted((folder / "params").rglob("*")) if file.is_file() and file.stat().st_size]


def test_a_byte_that_turned_over_is_found(copy):
    """In any file, at any of many places: by a plain load, which looks at all of a small checkpoint."""
    assert digests.check(copy) and digests.check(copy, whole=True)
    rng = np.random.default_rng(0)
    for file in data_files(copy):
        before = file.read_bytes()
        for place in rng.integers(0, len(before), 4):
            flipped = bytearray(before)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            with pytest.raises(TempoError, match="damaged or incomplete") as caught:
                checkpoint.load_params(copy)
            assert file.name in str(caught.value)
        file.write_bytes(before)
    checkpoint.load_params(copy, verify=True)


def test_digests_are_of_every_file_of_the_arrays(copy):
    said = json.loads((copy / digests.FILE).read_text())
    files = {f.relative_to(copy).as_posix() for f in (copy / "params").rglob("*") if f.is_file()}
    assert set(said["files"]) == files
    for name, of in said["files"].items():
        data = (copy / name).read_bytes()
        expected = f"{zlib.crc32(data):08x}" if data else ""
        assert of == {"bytes": len(data), "crc32": expected}


def test_of_a_large_checkpoint_some_blocks_are_looked_at(copy, monkeypatch):
    """As many bytes as SAMPLE_BYTES, other ones each time; `verify` looks at all."""
    monkeypatch.setattr(digests, "BLOCK_BYTES", 1 << 10)
    digests.DigestWriter().finish(copy)
    monkeypatch.setattr(digests, "SAMPLE_BYTES", 100 << 10)
    read, real = [], digests._crc32
    monkeypatch.setattr(
        digests, "_crc32", lambda path, start, size: read.append((path, start)) or real(path, start, size)
    )
    checkpoint.load_params(copy)
    first, total = set(read), sum(file.stat().st_size for file in data_files(copy))
    assert 90 <= len(first) <= 100 < total >> 10
    checkpoint.load_params(copy)
    assert set(read[len(first) :]) != first
    largest = max(data_files(copy), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(TempoError, match=largest.name):
        checkpoint.load_params(copy, verify=True)


def test_digests_that_are_missing_or_damaged(copy):
    (copy / digests.FILE).write_text("{")
    with pytest.raises(TempoError, match="delete that file to load without it"):
        checkpoint.load_params(copy)
    (copy / digests.FILE).unlink()
    checkpoint.load_params(copy)  # as those written before there were any
    with pytest.raises(TempoError, match=r"holds no digests\.json"):
        checkpoint.load_params(copy, verify=True)


def test_the_shipped_model_has_its_digests():
    assert digests.check(SHIPPED, whole=True)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 5_885_237


WRITERS = ("saved", "streamed", "frozen", "shipped")


@pytest.fixture(scope="module")
def written(tmp_path_factory, saved, params):
    """A checkpoint by each of the ways in which one is written, and the one that is shipped."""
    folder = tmp_path_factory.mktemp("written")
    with native_io.saving(folder / "streamed", "tempo", CONFIG) as put:
        for path, x in flatten(params).items():
            put(path, np.asarray(x))
    checkpoints.save_frozen(folder, "tempo", CONFIG, flatten(params), checkpoint.tokenizer_path(saved), {})
    return {"saved": saved, **{how: folder / how for how in WRITERS[1:3]}, "shipped": SHIPPED}


@pytest.mark.parametrize("how", WRITERS)
def test_plain_orbax_opens_a_checkpoint(how, written, params):
    """Without this package: all of Orbax's interfaces, with the path that everybody would give."""
    import orbax.checkpoint as v0

    folder = written[how].resolve() / "params"
    expected = checkpoint.load_params(written[how]) if how == "shipped" else params
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), expected)
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), expected)
    standard = v0.StandardCheckpointer()
    assert_equal(standard.restore(folder), expected)
    assert_equal(standard.restore(folder, shapes), expected)
    assert_equal(standard.restore(folder, placed), expected)
    said = {path: (x.shape, x.dtype) for path, x in flatten(standard.metadata(folder).item_metadata).items()}
    assert said == {path: (x.shape, x.dtype) for path, x in flatten(expected).items()}
    restore_args = v0.checkpoint_utils.construct_restore_args(placed)
    for checkpointer in (v0.PyTreeCheckpointer(), v0.Checkpointer(v0.PyTreeCheckpointHandler())):
        assert_equal(checkpointer.restore(folder, restore_args=restore_args), expected)
    assert_equal(ocp.load(folder, placed), expected)
    assert_equal(ocp.load(folder, placed, checkpointable_name=None), expected)


@pytest.mark.parametrize("how", WRITERS)
def test_a_copy_in_an_object_store_is_whole(how, written):
    """There Orbax takes a folder for finished by a file in it, not by its name."""
    from orbax.checkpoint._src.path import atomicity, temporary_paths

    check = temporary_paths.is_path_finalized(
        (written[how] / "params").resolve(), temporary_path_cls=atomicity.CommitFileTemporaryPath
    )
    assert asyncio.run(check)
    listed = json.loads((written[how] / digests.FILE).read_text())["files"]
    assert "params/commit_success.txt" in listed


def test_checkpoints_of_the_former_layout_load(tmp_path, params):
    """Those of tempo_jax until 30 November 2026: v1's own layout, the tree in params/state."""
    folder = tmp_path / "model"
    with checkpoint.saving_context():
        ocp.save(folder / "params", params)
    (folder / "params" / "commit_success.txt").unlink()
    digests.DigestWriter().finish(folder)
    values = json.loads((SHIPPED / "model.json").read_text()) | {
        "kind": "tempo",
        "config": model_config.to_dict(CONFIG),
    }
    (folder / "model.json").write_text(json.dumps(values))
    assert (folder / "params" / "state" / "_METADATA").is_file()
    assert_equal(checkpoint.load_params(folder, verify=True), params)
    mesh = sharding.make_mesh(2, 2, 2)
    assert_equal(checkpoint.load_params(folder, shardings=mesh), params)
    flat = flatten(params)
    for path, x in zip(flat, native_io.stored_arrays(folder, list(flat)), strict=True):
        np.testing.assert_array_equal(x, flat[path])
