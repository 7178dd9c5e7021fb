"""From replies to letters: at least thirty cases per benchmark, each quirk of the published evaluators."""

import pytest

from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import BENCHMARKS
from tempo_jax.evaluation.scoring import random_option

# Reply, letter. Of LVBench, Video-MME and MLVU, which share a parser.
BY_FORMAT = [
    # the plain ones
    ("A", "A"), ("B.", "B"), ("(C)", "C"), ("(D", "D"), ("C)", "C"), ("  D  ", "D"), ("A:", "A"),
    ("B\n", "B"), ("A. cat", "A"),
    ("(B) dog", "B"), ("C: bird", "C"), ("D) fish", "D"), ("'A'", "A"), ('"B".', "B"),
    ("**C**", "C"),
    # nothing to find
    ("", ""), ("   ", ""), ("\n\n", ""), ("?!", ""), ("b", ""), ("(b)", ""), ("e", ""), ("E", ""),
    ("(E)", ""), ("the cat", ""), ("I see no video", ""), ("42", ""), ("<|im_end|>", ""),
    # other scripts
    ("答案是B", "B"), ("答案为 C", "C"), ("选D", "D"), ("정답은 A 입니다", "A"), ("답: B", "B"),
    ("答えはCです", "C"), ("Ａ", ""),
    ("Б", ""), ("\u0410", ""), ("猫", ""), ("猫 (B) 犬", "B"), ("🐈 C.", "C"),
    # phrases
    ("The answer is B", "B"), ("the best option is C because it fits", "C"), ("I choose D", "D"),
    ("Best answer: A", "A"), ("My answer is: (B)", "B"), ("The correct choice is D.", "D"),
    # priorities: start over end over phrase over (A) over A. over A: over A) over "A "
    ("A or B", "A"), ("A (B)", "A"), ("the answer is B (C)", "C"), ("x (A) B", "B"), ("x (A) B. y", "A"),
    ("x A. B: y", "A"), ("x A: B) y", "A"), ("x A) B y", "A"), ("x (C) y (B) z", "B"), ("x A. y B. z", "B"),
    # quirks: after a phrase the later letter wins; a capital that ends a word counts; not at a word's start
    ("the answer is B, not A.", "A"), ("the answer is B and not A at all", "A"), ("USA first", "A"),
    ("from the USA.", "A"), ("Apple", "A"), ("Actually nothing", "A"), ("An apple", "A"), ("Bob or Dan", "D"),
    ("DNA test B", "B"), ("option B is right", "B"), ("x ABBA y", "A"), ("Because", "B"), ("e.g. Dog", "D"),
    # quirk: punctuation is stripped mark by mark, once each
    ('".B."', "B"), (".:A", "A"), (":.A", "A"), ("B!?", "B"), (",,C,,", "C"),
    # long ones
    ("Looking at the video, the man first walks, then runs, so the answer is (C).", "C"),
    ("(A) is wrong, (B) is wrong, (D) is right", "D"),
    ("Option A is tempting. The final answer is (B).", "B"),
    ("None of these", ""), ("no idea, sorry", ""),
]  # fmt: skip

FIRST_LETTER = [
    ("A", "A"), ("B.", "B"), ("(C)", "C"), ("D. A book", "D"), ("E", "E"), ("  E  ", "E"), ("(E) none", "E"),
    ("A:", "A"), ("C) it", "C"), ("**B**", "B"), ("'D'", "D"),
    # stock phrases go, and with them their capitals
    ("The best answer is C", "C"), ("The correct answer is: E", "E"), ("The answer is D.", "D"),
    ("The answer: B", "B"), ("Best answer: D", "D"), ("Best option: (C)", "C"), ("The best option is A", "A"),
    ("The correct option is E", "E"), ("The answer is The answer is B", "B"),
    # quirks: any capital A to E, wherever; and whatever is offered
    ("An apple", "A"), ("Because of C", "B"), ("Certainly: B", "C"), ("Dogs", "D"), ("Every day B", "E"),
    ("I think it is B", "B"), ("USA", "A"), ("my answer is D", "D"), ("best answer: D", "D"),
    ("x or E", "E"), ("it is bAd", "A"), ("the Answer is B", "A"),
    # nothing
    ("", ""), ("   ", ""), ("a", ""), ("f", ""), ("F", ""), ("not sure", ""), ("42", ""), ("\n", ""),
    ("it is one of many things that this long reply will not say", ""), ("The answer is", ""),
    # other scripts
    ("答案是B", "B"), ("Е", ""), ("Ａ", ""), ("정답은 E", "E"), ("猫", ""), ("Über C", "C"), ("É", ""),
]  # fmt: skip

OPTIONS = ("red star", "the sea", "3", "letter T")
BY_WORDS = [
    ("(A)", "A"), ("B", "B"), ("C.", "C"), ("D:", "D"), (" B) the sea", "B"), ("A. red star", "A"),
    ("It is red star", "A"), ("It is Red Star.", "A"), ("the sea", "B"), ("THE SEA", "B"), ("It is 3", "C"),
    ("It is letter T", "D"), ("letter t", "D"), ("(C) red star", "C"), ("red star (B)", "B"), ("3", "C"),
    # words of two options, or of none, tell nothing
    ("red star, the sea", ""), ("sea", ""), ("star", ""), ("13", ""), ("30 times", ""), ("blue moon", ""),
    ("the seaside", ""), ("letter", ""), ("", ""), ("  ", ""), ("?", ""), ("e", ""), ("E", ""), ("Zebra", ""),
    # a letter it begins with, at last
    ("A red thing", "A"), ("B and C", "B"), ("D it is", "D"), ("About time", ""), ("b", ""),
    ("在the sea里", ""), ("在 the sea", "B"), ("红星", ""), ("(Ａ)", ""),
]  # fmt: skip

CASES = {
    "lvbench": BY_FORMAT,
    "videomme": BY_FORMAT,
    "mlvu": BY_FORMAT,
    "longvideobench": FIRST_LETTER,
    "minireel": BY_WORDS,
}


def test_every_benchmark_has_its_thirty_cases():
    assert CASES.keys() == BENCHMARKS.keys()
    assert all(len(dict(cases)) == len(cases) >= 30 for cases in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_replies_are_read_as_published(name):
    row = BENCHMARKS[name]
    options = OPTIONS if name == "minireel" else ()
    found = [(reply, row.parse(reply, row.letters, options)) for reply, _ in CASES[name]]
    assert found == CASES[name]


def test_only_offered_letters_count_but_for_longvideobench():
    assert BENCHMARKS["lvbench"].parse("D", "ABC", ()) == ""
    assert BENCHMARKS["longvideobench"].parse("E", "ABCD", ()) == "E"


def test_a_random_option_is_the_questions_own():
    questions = [Question(f"q{i}", "v", "p", "ABCDE", (), "A", {}) for i in range(400)]
    drawn = [random_option(question, 0) for question in questions]
    assert drawn == [random_option(question, 0) for question in questions]
    assert drawn != [random_option(question, 1) for question in questions]
    assert all(50 < drawn.count(letter) < 110 for letter in "ABCDE")
