"""Answers to letters (T14)."""

import pytest

from tempo_jax.evaluation import letters


@pytest.mark.parametrize(
    "text,letter",
    [("B. because", "B"), ("(C)", "C"), ("the answer is a dog", "A"), ("d", "D"), ("no idea", ""), ("", "")],
)
def test_choices(text, letter):
    assert letters.choice(text) == letter


@pytest.mark.parametrize(
    "text,letter",
    [("Dog", "D"), ("no idea", ""), ("The best answer is C.", "C"), ("Best answer: C", "C"), ("b", "")],
)
def test_first_capitals(text, letter):
    assert letters.first_capital(text) == letter
