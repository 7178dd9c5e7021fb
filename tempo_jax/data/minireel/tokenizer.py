"""The tokenizer of the demo model: byte-level BPE trained on all the text of this world.

Any text can be written with it, since all 256 bytes are tokens; words of the world are one token, and so are
the sentences that every prompt repeats and the times of standard segments: digit by digit, a small LLM did
not learn to say times of more than two digits (docs/results/demo-model.md). The special tokens are Qwen's,
under ids of their own.

    python -m tempo_jax.data.minireel.tokenizer build/tokenizer
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tempo_jax import prompts
from tempo_jax.data.demo_tokenizer import PATTERN, SPECIAL, byte_characters, write_files
from tempo_jax.data.minireel import texts
from tempo_jax.data.minireel.questions import CHOICE_SUFFIX, LETTERS

SIZE = 768  # of the vocabulary, at most, before the times
# Whole seconds of the centers of standard segments, for videos of up to 512 seconds and of 4096.
TIMES = tuple(str(second) for second in (*range(10, 512, 4), *range(16, 4096, 32)))
# Said in every prompt: kept whole by the splitting rule, so that merging makes one token of each.
PHRASES = (
    prompts.TRAINING_SYSTEM,
    prompts.INFERENCE_SYSTEM.removeprefix(prompts.TRAINING_SYSTEM),
    prompts.LLM_SYSTEM,
    prompts.DEFAULT_QUESTION,
    f"\n{CHOICE_SUFFIX}",
    "\nQuery:\n",
    "Context turn 1: ",
    *(f"\n({letter})" for letter in LETTERS),
    *(f".{digit} seconds>" for digit in range(10)),
    *(f".{digit} seconds" for digit in range(10)),
)
_REPEATS = 20  # of the phrases in the training text, so that their merges come first


def _pattern() -> str:
    """Qwen's rule after the phrases; punctuation leaves a following line break to the option it begins."""
    return "|".join([*map(re.escape, PHRASES), PATTERN.replace(r"+[\r\n]*|", "+|")])


def _texts() -> Iterator[str]:
    for _ in range(_REPEATS):
        yield from PHRASES
        yield from ("Yes", "No", "\n", "user", "system", "assistant")
    for text in (*texts.corpus(), *texts.evidence_corpus()):
        yield text
        yield f" {text}"


def write(folder: str | Path, size: int = SIZE) -> None:
    """Train, and write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern()), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(byte_characters()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    write_files(Path(folder), _with_times(json.loads(tokenizer.to_str())), longest=8192)


def _with_times(rules: dict) -> str:
    """tokenizer.json with TIMES as tokens after all others; other numbers stay single digits."""
    (split,) = (step for step in rules["pre_tokenizer"]["pretokenizers"] if step["type"] == "Split")
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,4}|")
    vocabulary = rules["model"]["vocab"]
    for time in dict.fromkeys(TIMES):
        vocabulary.setdefault(time, len(vocabulary))
    rules["model"]["ignore_merges"] = True  # what is a token as a whole is not put together from pieces
    return json.dumps(rules, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    write(sys.argv[1])
