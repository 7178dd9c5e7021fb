"""Test environment: one CPU posing as eight devices, exact matrix products, no network.

All of it is environment variables set before anything imports jax, so that tests that need no jax
(the command line, plots, the tokenizer) do not pay for importing it.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same examples every time, however slow the machine is today.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")

REPO = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    # XLA compilations that took over half a second are kept between runs of the tests.
    "JAX_COMPILATION_CACHE_DIR": str(REPO / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

_DEVICES = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()


# Of memory mappings, of which Linux gives a process 65530 (vm.max_map_count): each compiled program has some,
# and where there are no more compiling fails, then the process dies.
MANY_MAPPINGS = 15_000


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """After a file the programs of this process are let go, where they have become many."""
    yield
    if "jax" in sys.modules and _mappings() > MANY_MAPPINGS:
        sys.modules["jax"].clear_caches()


def _mappings() -> int:
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as lines:
        return sum(1 for _ in lines)
    return 0


# A shell that starts tests in the background lets them ignore these, and their children would inherit that.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)

# The slowest files, longest first: left to `make test-all`, so that `make test` takes less than 10 minutes of
# two quiet cores, and begun first there, so that no core waits for one of them at the end.
SLOW = (
    "test_docs_run",
    "test_convert_matrix",
    "test_convert_fields",
    "test_convert_safety",
    "test_storage_runs",
    "test_train_processes",
    "test_training_step",
    "test_eval_end_to_end",
    "test_multiprocess",
    "test_beside_original",
    "test_task_data",
    "test_xcomp_lp_comp",
    "test_decode_attention",
    "test_vision_attention",
    "test_both_at_once",
    "test_compilation_cache",
    "test_media_damage",
    "test_notebook",
    "test_serve_xcomp",
    "test_warmup",
    "test_xcomp_golden",
    "test_parity_torch",
    "test_head_layout",
    "test_eval_model",
    "test_training",
    "test_xcomp_training",
    "test_align",
    "test_train_restore",
    "test_train_validation",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, by file, and puts it first, where `--no-loadscope-reorder` keeps it."""
    order = {name: index for index, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))
    for item in items:
        if item.path.stem in order:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded runs of the released PyTorch systems."""
    return REPO / "tests" / "golden"


@pytest.fixture(scope="session")
def qwen_tokenizer_dir() -> Path:
    """The real Qwen tokenizer (11 MB, not ours to ship); skips where it is not at hand."""
    named = os.environ.get("TEMPO_QWEN_TOKENIZER")
    inside = Path("shared", "golden", "qwen_tokenizer")
    places = [Path(named)] if named else [REPO.parent / inside, REPO / inside]
    for folder in places:
        if (folder / "tokenizer.json").is_file():
            return folder
    pytest.skip(f"no Qwen tokenizer at {places[0]}; set TEMPO_QWEN_TOKENIZER to its folder")


@pytest.fixture(scope="session")
def demo_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our small byte-level tokenizer with Qwen's ids for the prompts' own words."""
    from tempo_jax.data import demo_tokenizer

    folder = tmp_path_factory.mktemp("demo_tokenizer")
    demo_tokenizer.write(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """The demo model's, of the minireel world; a module with a fixture of this name uses another."""
    from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
    from tempo_jax.prompts import Tokenizer

    folder = tmp_path_factory.mktemp("minireel_tokenizer")
    minireel_tokenizer.write(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, demo_tokenizer_dir: Path) -> Path:
    """A native checkpoint of the tiny weights, converted; it sees small frames, for speed."""
    import json

    from convert import from_hf
    from tests.tiny_checkpoints import write_base, write_tempo

    folder = tmp_path_factory.mktemp("tiny")
    write_tempo(folder / "tempo", tokenizer_dir=demo_tokenizer_dir)
    write_base(folder / "base")
    from_hf.convert("tempo", folder / "tempo", folder / "model", base=folder / "base")
    path = folder / "model" / "model.json"
    values = json.loads(path.read_text())
    values["config"]["video"]["min_pixels"] = 16_384
    path.write_text(json.dumps(values))
    return folder / "model"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, demo_tokenizer_dir: Path) -> Path:
    """Tiny weights as published: tempo (three shards, tokenizer), base, llm; and tempo converted: native."""
    from convert import from_hf
    from tests import tiny_checkpoints as tiny

    root = tmp_path_factory.mktemp("published")
    tiny.write_tempo(root / "tempo", shards=3, vocab=tiny.SMALL, tokenizer_dir=demo_tokenizer_dir)
    tiny.write_base(root / "base", shards=2, vocab=tiny.SMALL)
    tiny.write_llm(root / "llm", vocab=tiny.SMALL)
    from_hf.convert("tempo", root / "tempo", root / "native", base=root / "base")
    return root


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For modules that train tiny models, in processes of their own too."""
    from tests import tiny_training

    with tiny_training.unoptimised():
        yield


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, quick_compilation: None) -> Path:
    """A native checkpoint for them to start from."""
    from tests import tiny_training

    folder = tmp_path_factory.mktemp("start")
    tiny_training.write_model(folder)
    return folder / "model"
