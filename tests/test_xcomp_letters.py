"""Replies to letters as XComp's benchmarks parse them."""

import pytest

from tempo_jax.evaluation import parsing


@pytest.mark.parametrize(
    "text,letter",
    [("B. because", "B"), ("(C)", "C"), ("the answer is a dog", "A"), ("d", "D"), ("no idea", ""), ("", "")],
)
def test_choices(text, letter):
    assert parsing.stand_alone(text, "ABCDE") == letter


@pytest.mark.parametrize(
    "text,letter",
    [("Dog", "D"), ("no idea", ""), ("The best answer is C.", "C"), ("Best answer: C", "C"), ("b", "")],
)
def test_first_capitals(text, letter):
    assert parsing.first_of_four(text, "ABCD") == letter
