"""One table of options: the Python API, the command line and the HTTP API admit the same values."""

import argparse
import dataclasses
import io
from contextlib import redirect_stderr

import numpy as np
import pytest

from tempo_jax import ata, fields
from tempo_jax.cli import common, entry
from tempo_jax.errors import TempoError
from tempo_jax.fields import FIELDS
from tempo_jax.serve import settings
from tempo_jax.serve.model import TempoModel
from tempo_jax.tempo.options import STRATEGIES as TEMPO_STRATEGIES
from tempo_jax.tempo.options import Options as TempoOptions
from tempo_jax.video.sampling import sample_indices
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.options import SCORERS
from tempo_jax.xcomp.options import Options as XCompOptions

NUMBERS = [name for name, field in FIELDS.items() if field.kind in (int, float)]
SAMPLING = ("fps", "min_frames", "max_frames")


def values_of(name, served=False):
    """(those at the bounds, those just outside)."""
    low, high = fields.bounds(name, served)
    if FIELDS[name].kind is int:
        return (low, high), (low - 1, high + 1, 1.5, "1", True, None)
    outside = (np.nextafter(low, -np.inf), np.nextafter(high, np.inf), float("nan"), float("inf"), "1", True)
    return (low, high), tuple(value if isinstance(value, str | bool) else float(value) for value in outside)


def in_python(name):
    """What takes the option in the Python API."""
    if name in SAMPLING:
        return [lambda value: sample_indices(100, 25.0, **{name: value})]
    kinds = [
        kind for kind in (TempoOptions, XCompOptions) if name in {f.name for f in dataclasses.fields(kind)}
    ]
    return [lambda value, kind=kind: kind(**{name: value}) for kind in kinds]


@pytest.mark.parametrize("name", NUMBERS)
def test_python_api(name):
    takers = in_python(name)
    assert takers
    inside, outside = values_of(name)
    for take in takers:
        if name not in ("min_frames", "max_frames"):  # as many frames as that would be sampled
            for value in inside:
                take(value)
        for value in outside:
            if value is None:
                continue
            with pytest.raises(TempoError, match=f"^{name} is .* but it must be a .*number from .*\\.$"):
                take(value)


def options_of_commands():
    """(command, action) of every option that has a field's name."""
    (commands,) = (a for a in entry._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [
        pytest.param(action, id=f"{command}-{action.dest}")
        for command, parser in commands.choices.items()
        for action in parser._actions
        if action.dest in FIELDS and action.nargs != 0
    ]


@pytest.mark.parametrize("action", options_of_commands())
def test_command_line(action):
    field = FIELDS[action.dest]
    assert action.help.startswith(field.help)
    if field.choices:
        assert tuple(action.choices) == field.every_choice
        return
    inside, outside = values_of(action.dest)
    for value in inside:
        assert action.type(repr(value)) == value
    for value in (
        value for value in outside if isinstance(value, int | float) and not isinstance(value, bool)
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
            action.type(repr(value))


def test_a_value_out_of_bounds_is_one_line():
    with redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as stop:
        entry._parser().parse_args(["ask", "a.mp4", "What?", "--fps", "0"])
    assert stop.value.code == 2 and stderr.getvalue().count("\n") == 1
    assert "'0' is not a number from 1e-06 to 1000000" in stderr.getvalue()


@dataclasses.dataclass
class Served:
    """What the settings of the HTTP API need of a model."""

    frames = TempoModel.frames
    strategies = TempoModel.strategies

    def options(self, **values):
        return TempoOptions(**values)


@pytest.mark.parametrize("row", settings.described(Served()), ids=lambda row: row["name"])
def test_http_api(row):
    """Its description states the bounds that it checks, which are those of the table or narrower."""
    name = row["name"]
    field = FIELDS[name]
    assert row["help"].lower() == f"{field.help}.".lower()
    if field.kind is str:
        assert tuple(row["choices"]) == field.choices["tempo"]
    if field.kind not in (int, float):
        return
    assert (row["minimum"], row["maximum"]) == fields.bounds(name, served=True)
    assert field.low <= row["minimum"] < row["maximum"] <= field.high
    inside, outside = values_of(name, served=True)
    for value in inside:
        assert settings.validate(name, value, Served()) == value
    for value in outside:
        with pytest.raises(TempoError, match=f"^{name} is "):
            settings.validate(name, value, Served())
    if row["published"]:
        assert row["minimum"] <= row["published"]["minimum"] < row["published"]["maximum"] <= row["maximum"]


def test_what_is_narrower_in_the_http_api():
    """A request's cost grows with all of them but the temperature, which OpenAI's API bounds."""
    assert {name for name, field in FIELDS.items() if field.served} == {
        "temperature",
        "budget",
        "min_frames",
        "max_frames",
        "max_new_tokens",
    }


def test_choices_are_those_that_are_implemented():
    strategy, lp_comp = FIELDS["strategy"], FIELDS["lp_comp"]
    assert strategy.choices["tempo"] + strategy.ablations["tempo"] == TEMPO_STRATEGIES
    assert set(ata.KEEP_STRATEGIES) < set(strategy.choices["tempo"])
    assert set(strategy.choices["xcomp"]) == set(SCORERS)
    assert set(lp_comp.choices["xcomp"]) == set(token_compression.VARIANTS)
    for value in lp_comp.choices["tempo"]:
        TempoOptions(lp_comp=value)


def test_defaults_are_valid():
    for options in (TempoOptions(), XCompOptions()):
        for name, value in vars(options).items():
            if name in NUMBERS and value is not None:
                assert fields.check(name, value) == value


def test_numpy_scalars_are_numbers():
    assert fields.check("budget", np.int64(3)) == 3 and type(fields.check("budget", np.int64(3))) is int
    assert fields.check("fps", np.float32(2)) == 2.0


def test_an_option_of_the_other_system_is_named():
    with pytest.raises(TempoError, match=r"strategy is 'local' \(a choice of xcomp\)"):
        TempoOptions(strategy="local")


def test_the_commands_take_fields_from_the_table():
    assert common.field_type("budget")("7") == 7
