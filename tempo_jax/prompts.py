"""Prompts and their token ids, on the host (facts/tempo.md §1.7-1.9, §4.3).

The published weights depend on these exact strings and ids. Structure is put in as ids and all text
is tokenised as *plain* text, so a question that contains "<|im_end|>" or "<image>" cannot change
the prompt's shape.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import PADDING_ID, QWEN_IDS, SpecialIds

IMAGE_PLACEHOLDER = -200  # where the visual block goes in the LLM's prompt
IGNORE = -100  # labels that cost nothing
DEFAULT_QUESTION = "Describe this content."
LLM_SYSTEM = "You are a helpful assistant."
TRAINING_SYSTEM = (
    "You are a query-conditioned visual compressor. Store in the provided memory tokens the minimal "
    "visual information needed to answer the Query. Ignore irrelevant details."
)
INFERENCE_SYSTEM = (
    TRAINING_SYSTEM + " Now, before compressing, answer exactly 'Yes' or 'No': is this segment "
    "relevant to the Query?"
)
SPECIAL_TOKENS = (
    "endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"
)  # fmt: skip
MAX_CACHED_CHARS = (
    512  # characters of a text whose ids are remembered: the prompts' own words, tags, most turns
)
QUERY_TURNS = 16  # turns of a conversation that reach the compressor in training


def time_tag(seconds: float) -> str:
    """`<2.0 seconds>`: one decimal, halves to even on the binary value (facts §1.7, §2.4)."""
    return f"<{seconds:.1f} seconds>"


def training_query(conversation: Sequence[dict]) -> str:
    """The compressor's query in training: the numbered human turns (facts §1.8)."""
    numbered = [f"Context turn {i}: {text}" for i, text in enumerate(_user_turns(conversation), start=1)]
    return "\n".join(numbered) or DEFAULT_QUESTION


def inference_query(conversation: Sequence[dict]) -> str:
    """The compressor's query in inference: the question as it is, or several, a line each."""
    return "\n".join(_user_turns(conversation)) or DEFAULT_QUESTION


def _user_turns(conversation: Sequence[dict]) -> list[str]:
    turns = (turn for turn in conversation[:QUERY_TURNS] if turn.get("from") == "human")
    return list(filter(None, (str(turn.get("value", "")).replace("<image>", "").strip() for turn in turns)))


class Message(NamedTuple):
    """An earlier message of a conversation; video: the visual block stands before its text."""

    role: str  # system, user or assistant
    text: str
    video: bool = False


class PrefixRows(NamedTuple):
    """The question-independent part of S compressor prompts, right-padded to one length; int32."""

    token_ids_SL: np.ndarray
    visual_index_SL: np.ndarray  # which of the segment's visual tokens, -1 for text
    positions_3SL: np.ndarray  # M-RoPE (t, h, w)
    length_S: np.ndarray
    next_position_S: np.ndarray  # the rope position after the last token


class Tokenizer:
    """A Hugging Face tokenizer folder with Qwen's special tokens, used for plain text only."""

    ids: SpecialIds = QWEN_IDS

    def __init__(self, folder: str | os.PathLike):
        self._full, self._plain = _load(os.fspath(folder))
        self.ids = self._special_ids(folder)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens written out in it are ordinary characters."""
        encode = _encode_cached if len(text) <= MAX_CACHED_CHARS else _encode
        return list(encode(self._plain, text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self._full.decode([int(i) for i in ids], skip_special_tokens=True)

    def _special_ids(self, folder) -> SpecialIds:
        """Where this vocabulary has the tokens that prompts are built of."""
        special = self._full.get_added_vocab()
        found = [special.get(f"<|{name}|>") for name in SPECIAL_TOKENS]
        words = [self.encode(word) for word in ("Yes", "No", "\n")]
        if None in found or any(len(word) != 1 for word in words):
            raise TempoError(
                f"{folder} is no Qwen-style tokenizer: it needs <|{'|>, <|'.join(SPECIAL_TOKENS)}|>, and one "
                "token each for Yes, No and the line break."
            )
        return SpecialIds(*found, *(word[0] for word in words))

    def tag_ids(self, seconds: float) -> list[int]:
        return self.encode(time_tag(seconds))

    def turn(self, role: str, text: str) -> list[int]:
        """`<|im_start|>role⏎text<|im_end|>⏎`."""
        return [self.ids.im_start, *self.encode(f"{role}\n{text}"), self.ids.im_end, self.ids.newline]

    @property
    def assistant_header(self) -> list[int]:
        return [self.ids.im_start, *self.encode("assistant\n")]

    # The compressor's prompt

    def prefix_row(
        self, slice_seconds: Sequence[float] | None, tokens: int, *, training: bool = False
    ) -> list[int]:
        """System prompt and video of one segment, to the last <|vision_end|>.

        slice_seconds: time of each temporal slice, or None for an image; tokens: visual tokens of
        one slice.
        """
        return self.video_row(TRAINING_SYSTEM if training else INFERENCE_SYSTEM, slice_seconds, tokens)

    def video_row(self, system: str | None, slice_seconds: Sequence[float] | None, tokens: int) -> list[int]:
        """The same with any system prompt, or none."""
        ids = self.turn("system", system) if system else []
        ids += [self.ids.im_start, *self.encode("user\n")]
        if slice_seconds is None:
            return [*ids, self.ids.vision_start, *[self.ids.image_pad] * tokens, self.ids.vision_end]
        for seconds in slice_seconds:
            ids += [
                *self.tag_ids(seconds),
                self.ids.vision_start,
                *[self.ids.video_pad] * tokens,
                self.ids.vision_end,
            ]
        return ids

    def question_ids(self, query: str) -> list[int]:
        """What follows the video in the compressor's prompt, up to where the memory tokens go."""
        return [*self.encode(f"\nQuery:\n{query}"), self.ids.im_end, self.ids.newline, *self.assistant_header]

    # The LLM's prompt

    def chat_ids(self, query: str, conversation: Sequence[Message] = ()) -> tuple[list[int], list[int]]:
        """Everything before the visual block and everything after it, as Qwen renders chats.

        conversation: earlier messages; those of the system stand first, in place of the published one. The
        visual block stands in the message that has it, else in the query's own turn.
        """
        system = "\n\n".join(m.text for m in conversation if m.role == "system") or LLM_SYSTEM
        turns = [m for m in conversation if m.role != "system"]
        shown = next((i for i, m in enumerate(turns) if m.video), len(turns))
        turns = [*turns, Message("user", query)]
        prefix = self.turn("system", system)
        for message in turns[:shown]:
            prefix += self.turn(message.role, message.text)
        prefix += [self.ids.im_start, *self.encode("user\n")]
        suffix = [*self.encode(f"\n{turns[shown].text}"), self.ids.im_end, self.ids.newline]
        for message in turns[shown + 1 :]:
            suffix += self.turn(message.role, message.text)
        return prefix, [*suffix, *self.assistant_header]

    @property
    def llm_prefix_ids(self) -> list[int]:
        """Everything before the visual block."""
        return [*self.turn("system", LLM_SYSTEM), self.ids.im_start, *self.encode("user\n")]

    def llm_suffix_ids(self, query: str) -> list[int]:
        """Everything after the visual block, up to the answer."""
        return [*self.encode(f"\n{query}"), self.ids.im_end, self.ids.newline, *self.assistant_header]

    def training_prompt(self, conversation: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
        """The LLM's ids and labels of one conversation; int64 [P] each (facts §4.3).

        IMAGE_PLACEHOLDER stands for the visual block. Assistant turns are learned whole; of the
        others only line breaks and turn delimiters, which the published code leaves unmasked.
        """
        ids, learned = self.turn("system", LLM_SYSTEM), []
        learned += [False] * len(ids)
        turns = list(conversation)
        if turns and turns[0].get("from") != "human":
            turns = turns[1:]
        for turn in turns:
            assistant = turn["from"] != "human"
            text = turn["value"] if assistant else _placeholder_first(turn["value"])
            piece = self._turn_with_images("assistant" if assistant else "user", text)
            ids += piece
            learned += [assistant] * len(piece)
        ids_P = np.asarray(ids, np.int64)
        always = np.isin(ids_P, (self.ids.newline, self.ids.im_start, self.ids.im_end))
        keep = (np.asarray(learned) | always) & (ids_P != IMAGE_PLACEHOLDER)
        return ids_P, np.where(keep, ids_P, IGNORE)

    def _turn_with_images(self, role: str, text: str) -> list[int]:
        first, *rest = f"{role}\n{text}".split("<image>")
        ids = [*self.encode(first)]
        for part in rest:
            ids += [IMAGE_PLACEHOLDER, *self.encode(part)]
        return [self.ids.im_start, *ids, self.ids.im_end, self.ids.newline]


def _placeholder_first(text: str) -> str:
    """One <image>, or any <video>, moves to the front as `<image>⏎`; several images stay (§4.3)."""
    if text.count("<image>") == 1 or "<video>" in text:
        return "<image>\n" + text.replace("<image>", "").replace("<video>", "").strip()
    return text


def pad_rows(
    rows: Sequence[Sequence[int]],
    length: int,
    merged_grid: tuple[int, int],
    ids: SpecialIds = QWEN_IDS,
) -> PrefixRows:
    """Pads prefix rows to `length` and lays out visual indices and M-RoPE positions (facts §1.4).

    merged_grid: (rows, columns) of one slice's visual tokens.
    """
    length_S = np.array([len(row) for row in rows], np.int32)
    token_ids_SL = np.full((len(rows), length), PADDING_ID, np.int32)
    for table, row in zip(token_ids_SL, rows):
        table[: len(row)] = row
    real_SL = np.arange(length) < length_S[:, None]
    visual_SL = real_SL & np.isin(token_ids_SL, (ids.video_pad, ids.image_pad))
    positions_3SL, next_position_S = _positions(visual_SL, merged_grid, length_S)
    return PrefixRows(
        token_ids_SL=token_ids_SL,
        visual_index_SL=np.where(visual_SL, visual_SL.cumsum(1, dtype=np.int32) - 1, -1),
        positions_3SL=np.where(real_SL, positions_3SL, 0),
        length_S=length_S,
        next_position_S=next_position_S,
    )


def _positions(
    visual_SL: np.ndarray, merged_grid: tuple[int, int], length_S: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """M-RoPE positions [3, S, L] and, after the last token of each row, the next one; int32.

    Text counts up on all three axes. A vision block that starts at position c takes t = c,
    h = c + row, w = c + column, and counting resumes at c + max(rows, columns).
    """
    height, width = merged_grid
    place_L = np.arange(visual_SL.shape[1], dtype=np.int32)
    starts_SL = visual_SL & ~np.pad(visual_SL, ((0, 0), (1, 0)))[:, :-1]
    if (starts_SL & (place_L + height * width > length_S[:, None])).any():
        raise ValueError(f"a row ends within its last block of {height} x {width} visual tokens")
    # How far into the block that started last; before the first one, far behind any.
    inside_SL = place_L - np.maximum.accumulate(np.where(starts_SL, place_L, -height * width), axis=1)
    block_SL = inside_SL < height * width
    # A block counts as a whole at its first token.
    steps_SL = np.where(starts_SL, max(height, width), ~block_SL).astype(np.int32)
    following_SL = steps_SL.cumsum(1, dtype=np.int32)
    begin_SL = following_SL - np.where(block_SL, np.int32(max(height, width)), np.int32(1))
    row_SL, column_SL = (np.where(block_SL, x, 0) for x in np.divmod(inside_SL, np.int32(width)))
    following_S = np.pad(following_SL, ((0, 0), (1, 0)))[np.arange(len(length_S)), length_S]
    return np.stack([begin_SL, begin_SL + row_SL, begin_SL + column_SL]), following_S


def _encode(plain: Any, text: str) -> tuple[int, ...]:
    return tuple(plain.encode(text, add_special_tokens=False).ids)


_encode_cached = functools.lru_cache(maxsize=2048)(_encode)  # at most some 40 MB, of texts as long as may be


@functools.lru_cache(maxsize=4)
def _load(folder: str):
    """The tokenizer, and a copy of it that knows no special tokens."""
    import json

    import tokenizers
    from transformers import AutoTokenizer

    try:
        full = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        rules = json.loads(full.backend_tokenizer.to_str())
    except Exception as error:  # whatever transformers and tokenizers make of damaged files
        raise TempoError(
            f"{folder} holds no usable Hugging Face fast tokenizer; convert the checkpoint again from a "
            "folder that has tokenizer.json."
        ) from error
    rules["added_tokens"] = []
    return full, tokenizers.Tokenizer.from_str(json.dumps(rules))
