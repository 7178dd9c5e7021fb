"""docs/reference/checkpoints.md: its tables are the code's, its Python opens a checkpoint without us."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from convert import tree
from tempo_jax import checkpoint
from tempo_jax.models.config import KINDS
from tempo_jax.models.presets import PRESETS

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "reference" / "checkpoints.md"
SHIPPED = REPO / "checkpoints" / "demo"


@pytest.mark.parametrize("name", ["qwen3-4b", "qwen3-vl-2b", "tempo-6b", "xcomp-2b"])
def test_the_tables_are_up_to_date(name, capsys):
    """Mend a difference with python -m convert.tree --model=NAME."""
    assert tree.main([f"--model={name}"]) == 0
    assert capsys.readouterr().out in PAGE.read_text("utf-8")


def test_every_kind_and_array_has_its_row():
    text = PAGE.read_text("utf-8")
    assert all(f"## {kind}\n" in text for kind in KINDS)
    shapes = {path for path, *_ in tree.rows("tempo", PRESETS["demo"])}
    assert shapes == set(checkpoint.param_shapes(SHIPPED))


def test_plain_orbax_opens_a_checkpoint_as_the_page_says():
    """On one host and sharded, v1 and v0; the page's lines as they stand."""
    expected = checkpoint.load_params(SHIPPED)
    space = {"folder": str(SHIPPED.resolve())}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, space)
        for name in ("params", "arrays"):
            if name in space:
                jax.tree.map(np.testing.assert_array_equal, space.pop(name), expected)
    assert not space.keys() & {"params", "arrays"} and len(jax.devices()) == 8
