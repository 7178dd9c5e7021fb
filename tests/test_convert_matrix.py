"""Converted logits are transformers' own, however the files lie, or one line says why."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="the live comparison needs the test extra's PyTorch")

from convert import from_hf, logits  # noqa: E402
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer  # noqa: E402
from tempo_jax.errors import TempoError  # noqa: E402
from tests import convert_models as models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
EXACT = 1e-5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads wait for each other in busy loops: most of their work on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    minireel_tokenizer.write(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return models.write_base(tmp_path_factory.mktemp("base") / "base", tokenizer)


KINDS = ("qwen3", "qwen3-vl", "tempo", "xcomp")
LAYOUTS = ("one", "shards", "stale", "bare")
CASES = list(itertools.product(KINDS, ("5", "4.57"), (True, False), LAYOUTS, models.DTYPES))


@pytest.mark.parametrize("kind,version,tied,layout,dtype", CASES)
def test_logits_are_transformers_own(kind, version, tied, layout, dtype, tokenizer, base, tmp_path):
    hf = models.write(tmp_path / "hf", kind, tied, version, layout, dtype, tokenizer)
    below = {"base": base} if kind == "tempo" else {}
    if layout == "bare" and not tied:  # whose head is nowhere
        with pytest.raises(TempoError, match=r"missing: lm_head\.weight"):
            from_hf.convert(kind, hf, tmp_path / "native", **below)
        return
    from_hf.convert(kind, hf, tmp_path / "native", **below)
    found = logits.compare(tmp_path / "native", hf, **below)
    assert [comparison.what for comparison in found][-2:] == (
        ["image", "video"] if kind != "qwen3" else ["tokens"]
    )
    for comparison in found:
        assert comparison.relative.max() < EXACT, comparison.lines()[0]
        assert comparison.top.min() >= logits.TOP - 1 and comparison.kl.max() < 1e-8
