"""Generated pages and figures are those that their generators write now."""

import json
import re

import pytest

from tempo_jax.plan import topology
from tools import diagrams, plan_rows, plans_page, reference_pages

V6E = "tempo answer 1024 frames v6e:1x1"


def test_reference_pages_are_current():
    """Mend a difference with make docs (or python tools/reference_pages.py)."""
    for name, text in reference_pages.pages().items():
        assert (reference_pages.REFERENCE / name).read_text("utf-8") == text, f"{name}: run make docs"


# Config fields whose name says all.
SELF_EXPLAINED = {
    "seed", "steps", "warmup_ratio", "weight_decay", "clip_norm", "b1", "b2", "checkpoint_every",
    "max_new_tokens", "min_frames", "budget", "min_tokens", "context_length",
}  # fmt: skip


@pytest.mark.parametrize("page", ["training-config.md", "eval-config.md"])
def test_config_fields_have_descriptions(page):
    """A new field needs a comment where its default is set."""
    text = (reference_pages.REFERENCE / page).read_text("utf-8")
    bare = re.findall(r"^\| `([\w.]+)` \| .* \|  \|$", text, re.MULTILINE)
    assert {name.rpartition(".")[2] for name in bare} <= SELF_EXPLAINED


def test_comments_of_a_config_become_its_descriptions(monkeypatch):
    source = (
        "def default():\n    # Above,\n    # in two lines.\n    config.a.b = 1  # and beside\n"
        "    config.c = 2\n\n"
        "    # Of a group:\n    config.d = 3  # alone\n    config.e = 4\n\n    config.f = 5\n"
    )
    monkeypatch.setattr("inspect.getsource", lambda _: source)
    comments = reference_pages.field_comments(print)
    assert comments == {"a.b": "Above, in two lines. and beside", "d": "alone", "e": "Of a group"}


def test_diagrams_are_current():
    for name, draw in diagrams.DIAGRAMS.items():
        assert (diagrams.IMAGES / name).read_text("utf-8") == draw(), f"{name}: run make docs"


def test_the_plans_page_is_current():
    found = plans_page.read()
    assert plans_page.PAGE.read_text("utf-8") == plans_page.page(found), (
        "run python tools/plans_page.py --page"
    )
    assert plans_page.FIGURE.read_text("utf-8") == plans_page.figure(found)
    assert json.loads(json.dumps(found)) == found and set(found) <= set(plan_rows.PLANS)


def test_the_plans_page_says_what_was_not_compiled():
    text = plans_page.page({})
    assert text.count("| not compiled |") >= len(plan_rows.PLANS)
    for row in plan_rows.PLANS.values():
        assert row.command in text
        topology.parse(row.topology)


def test_plans_of_earlier_programs_are_marked():
    plan = plans_page.read()[V6E] | {"generation": plans_page.GENERATION}
    now = plans_page.page({V6E: plan})
    assert "| v6e, 1 chip, 1x1, v6e-1 | 1024 frames | one chip" in now and "¹" not in now
    earlier = plans_page.page({V6E: plan | {"generation": plans_page.GENERATION - 1}})
    assert "| v6e, 1 chip, 1x1, v6e-1 ¹ | 1024 frames | one chip" in earlier and plans_page.EARLIER in earlier


def test_slices_have_the_names_that_google_sells_them_under():
    names = {row.topology: row.slice_name for row in plan_rows.PLANS.values() if row.slices == 1}
    assert names["v5p:4x4x4"] == "v5p, 64 chips, 4x4x4, v5p-128"
    assert names["v5e:16x16"] == "v5e, 256 chips, 16x16, v5litepod-256"
    assert names["v6e:8x8"] == "v6e, 64 chips, 8x8, v6e-64"


def test_every_sweep_names_rows_that_exist():
    for names in plan_rows.SCALING.values():
        assert set(names.values()) <= set(plan_rows.PLANS)
