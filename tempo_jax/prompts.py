"""Prompts and their token ids, on the host.

Sources: docs/reference/tempo.md#compressor-prompts, docs/reference/tempo.md#llm-prompt-and-context. The
published weights depend on these exact strings and ids. Prompt structure is inserted as ids and all text is
tokenized as
*plain* text, so that a question that contains "<|im_end|>" or "<image>" cannot change the prompt's structure.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import PADDING_ID, QWEN_IDS, SpecialIds

if TYPE_CHECKING:
    import tokenizers

IMAGE_PLACEHOLDER = -200  # stands for the visual block in the LLM's prompt
IGNORE = -100  # label of tokens without loss
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
# Length of texts whose ids are cached: prompt templates, time tags, most turns.
MAX_CACHED_CHARS = 512
QUERY_TURNS = 16  # turns of a conversation that are in the compressor's query


def time_tag(seconds: float) -> str:
    """Formats a time tag, such as `<2.0 seconds>`: one decimal, the binary value rounded half to even.

    See docs/reference/tempo.md#time-tags.
    """
    return f"<{seconds:.1f} seconds>"


def training_query(conversation: Sequence[dict]) -> str:
    """The compressor's query in training: the numbered human turns
    (docs/reference/tempo.md#compressor-prompts).

    Args:
      conversation: Turns with the keys "from" ("human" or other) and "value".
    """
    numbered = [f"Context turn {i}: {text}" for i, text in enumerate(_user_turns(conversation), start=1)]
    return "\n".join(numbered) or DEFAULT_QUESTION


def inference_query(conversation: Sequence[dict]) -> str:
    """The compressor's query at inference: the question, or several questions, one per line.

    Args:
      conversation: Turns with the keys "from" ("human" or other) and "value".
    """
    return "\n".join(_user_turns(conversation)) or DEFAULT_QUESTION


def _user_turns(conversation: Sequence[dict]) -> list[str]:
    turns = (turn for turn in conversation[:QUERY_TURNS] if turn.get("from") == "human")
    return list(filter(None, (str(turn.get("value", "")).replace("<image>", "").strip() for turn in turns)))


class Message(NamedTuple):
    """An earlier message of a conversation.

    Attributes:
      role: "system", "user" or "assistant".
      text: Its text.
      video: Whether the visual block precedes the text.
    """

    role: str
    text: str
    video: bool = False


class PrefixRows(NamedTuple):
    """The question-independent part of S compressor prompts, right-padded to one length; int32."""

    token_ids_SL: np.ndarray
    visual_index_SL: np.ndarray  # index among the segment's visual tokens, -1 for text
    positions_3SL: np.ndarray  # M-RoPE (t, h, w)
    length_S: np.ndarray
    next_position_S: np.ndarray  # the RoPE position after the last token


class Tokenizer:
    """A Hugging Face tokenizer with Qwen's special tokens.

    Attributes:
      ids: Ids of the tokens that structure prompts.
    """

    ids: SpecialIds = QWEN_IDS

    def __init__(self, folder: str | os.PathLike):
        """Loads the tokenizer.

        Args:
          folder: Folder with tokenizer.json.

        Raises:
          TempoError: The folder has no usable tokenizer, or its vocabulary lacks Qwen's special tokens.
        """
        self._full, self._plain = _load(os.fspath(folder))
        self.ids = self._special_ids(folder)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of plain text, in which special tokens are ordinary characters."""
        encode = _encode_cached if len(text) <= MAX_CACHED_CHARS else _encode
        return list(encode(self._plain, text))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        return self._full.decode([int(i) for i in ids], skip_special_tokens=True)

    def _special_ids(self, folder) -> SpecialIds:
        """The ids of this vocabulary's tokens that structure prompts."""
        special = {token.content: i for i, token in self._full.get_added_tokens_decoder().items()}
        special_ids = [special[f"<|{name}|>"] for name in SPECIAL_TOKENS if f"<|{name}|>" in special]
        words = [self.encode(word) for word in ("Yes", "No", "\n")]
        if len(special_ids) < len(SPECIAL_TOKENS) or any(len(word) != 1 for word in words):
            raise TempoError(
                f"{folder} is no Qwen-style tokenizer: it needs <|{'|>, <|'.join(SPECIAL_TOKENS)}|>, and one "
                "token each for Yes, No and the line break."
            )
        return SpecialIds(*special_ids, *(word[0] for word in words))

    def tag_ids(self, seconds: float) -> list[int]:
        """Returns the ids of a time tag."""
        return self.encode(time_tag(seconds))

    def turn(self, role: str, text: str) -> list[int]:
        """Returns the ids of `<|im_start|>role⏎text<|im_end|>⏎`."""
        return [self.ids.im_start, *self.encode(f"{role}\n{text}"), self.ids.im_end, self.ids.newline]

    @property
    def assistant_header(self) -> list[int]:
        """The ids of `<|im_start|>assistant⏎`."""
        return [self.ids.im_start, *self.encode("assistant\n")]

    # The compressor's prompt

    def prefix_row(
        self, slice_seconds: Sequence[float] | None, tokens: int, *, training: bool = False
    ) -> list[int]:
        """Returns the ids of a compressor prompt's prefix: system prompt and video of one segment.

        Args:
          slice_seconds: Time of each temporal slice; None for an image.
          tokens: Visual tokens of one slice.
          training: Uses the system prompt of training, which does not ask for relevance.
        """
        return self.video_row(TRAINING_SYSTEM if training else INFERENCE_SYSTEM, slice_seconds, tokens)

    def video_row(self, system: str | None, slice_seconds: Sequence[float] | None, tokens: int) -> list[int]:
        """As `prefix_row`, with any system prompt or none."""
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
        """Returns the ids of the compressor's prompt between the video and the memory tokens."""
        return [*self.encode(f"\nQuery:\n{query}"), self.ids.im_end, self.ids.newline, *self.assistant_header]

    # The LLM's prompt

    def chat_ids(self, query: str, conversation: Sequence[Message] = ()) -> tuple[list[int], list[int]]:
        """Returns the ids of the LLM's prompt before and after the visual block, in Qwen's chat format.

        Args:
          query: The question.
          conversation: Earlier messages. Those of the role "system" replace the default system prompt. The
            visual block is in the message whose `video` is set, else in the query's own turn.
        """
        system = "\n\n".join(m.text for m in conversation if m.role == "system") or LLM_SYSTEM
        turns = [m for m in conversation if m.role != "system"]
        video_turn = next((i for i, m in enumerate(turns) if m.video), len(turns))
        turns = [*turns, Message("user", query)]
        prefix = self.turn("system", system)
        for message in turns[:video_turn]:
            prefix += self.turn(message.role, message.text)
        prefix += [self.ids.im_start, *self.encode("user\n")]
        suffix = [*self.encode(f"\n{turns[video_turn].text}"), self.ids.im_end, self.ids.newline]
        for message in turns[video_turn + 1 :]:
            suffix += self.turn(message.role, message.text)
        return prefix, [*suffix, *self.assistant_header]

    @property
    def llm_prefix_ids(self) -> list[int]:
        """The ids of the LLM's prompt before the visual block."""
        return [*self.turn("system", LLM_SYSTEM), self.ids.im_start, *self.encode("user\n")]

    def llm_suffix_ids(self, query: str) -> list[int]:
        """Returns the ids of the LLM's prompt between the visual block and the answer."""
        return [*self.encode(f"\n{query}"), self.ids.im_end, self.ids.newline, *self.assistant_header]

    def training_prompt(self, conversation: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the LLM's ids and labels of one conversation, int64 [P] each
        (docs/reference/tempo.md#labels).

        IMAGE_PLACEHOLDER stands for the visual block. Assistant turns have labels throughout; other turns
        only on line breaks and turn delimiters, which the reference implementation does not mask.

        Args:
          conversation: Turns with the keys "from" ("human" or other) and "value".
        """
        ids, has_label = self.turn("system", LLM_SYSTEM), []
        has_label += [False] * len(ids)
        turns = list(conversation)
        if turns and turns[0].get("from") != "human":
            turns = turns[1:]
        for turn in turns:
            assistant = turn["from"] != "human"
            text = turn["value"] if assistant else _placeholder_first(turn["value"])
            turn_ids = self._turn_with_images("assistant" if assistant else "user", text)
            ids += turn_ids
            has_label += [assistant] * len(turn_ids)
        ids_P = np.asarray(ids, np.int64)
        unmasked = np.isin(ids_P, (self.ids.newline, self.ids.im_start, self.ids.im_end))
        keep = (np.asarray(has_label) | unmasked) & (ids_P != IMAGE_PLACEHOLDER)
        return ids_P, np.where(keep, ids_P, IGNORE)

    def _turn_with_images(self, role: str, text: str) -> list[int]:
        first, *rest = f"{role}\n{text}".split("<image>")
        ids = [*self.encode(first)]
        for part in rest:
            ids += [IMAGE_PLACEHOLDER, *self.encode(part)]
        return [self.ids.im_start, *ids, self.ids.im_end, self.ids.newline]


def _placeholder_first(text: str) -> str:
    """Moves a single <image>, or any <video>, to the front as `<image>⏎`; leaves several images in place."""
    if text.count("<image>") == 1 or "<video>" in text:
        return "<image>\n" + text.replace("<image>", "").replace("<video>", "").strip()
    return text


def pad_rows(
    rows: Sequence[Sequence[int]],
    length: int,
    merged_grid: tuple[int, int],
    ids: SpecialIds = QWEN_IDS,
) -> PrefixRows:
    """Pads prefixes, and computes their visual indices and M-RoPE positions
    (docs/reference/tempo.md#positions).

    Args:
      rows: Token ids of each prefix.
      length: Length to pad to.
      merged_grid: (rows, columns) of one slice's visual tokens.
      ids: The tokenizer's special ids.

    Raises:
      ValueError: A prefix ends within its last slice.
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
    """M-RoPE positions [3, S, L] and the position after each prefix [S]; int32.

    Text advances all three axes by 1. A block of visual tokens that starts at position c has t = c, h = c +
    row, w = c + column, and text continues at c + max(rows, columns).
    """
    height, width = merged_grid
    index_L = np.arange(visual_SL.shape[1], dtype=np.int32)
    starts_SL = visual_SL & ~np.pad(visual_SL, ((0, 0), (1, 0)))[:, :-1]
    if (starts_SL & (index_L + height * width > length_S[:, None])).any():
        raise ValueError(f"a row ends within its last block of {height} x {width} visual tokens")
    # Index within the block that started last; before the first block, beyond any block.
    offset_SL = index_L - np.maximum.accumulate(np.where(starts_SL, index_L, -height * width), axis=1)
    block_SL = offset_SL < height * width
    # The first token of a block advances the position by that of the whole block.
    steps_SL = np.where(starts_SL, max(height, width), ~block_SL).astype(np.int32)
    following_SL = steps_SL.cumsum(1, dtype=np.int32)
    begin_SL = following_SL - np.where(block_SL, np.int32(max(height, width)), np.int32(1))
    row_SL, column_SL = (np.where(block_SL, x, 0) for x in np.divmod(offset_SL, np.int32(width)))
    following_S = np.pad(following_SL, ((0, 0), (1, 0)))[np.arange(len(length_S)), length_S]
    return np.stack([begin_SL, begin_SL + row_SL, begin_SL + column_SL]), following_S


def _encode(plain: Any, text: str) -> tuple[int, ...]:
    return tuple(plain.encode(text, add_special_tokens=False).ids)


_encode_cached = functools.lru_cache(maxsize=2048)(_encode)  # at most about 40 MB


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> tuple["tokenizers.Tokenizer", "tokenizers.Tokenizer"]:
    """The tokenizer, and a copy of it without special tokens."""
    import tokenizers

    try:
        full = _from_file(Path(folder)) or _from_transformers(folder)
        plain = tokenizers.Tokenizer(full.model)  # which both share
        plain.decoder = full.decoder
        if full.normalizer is not None:
            plain.normalizer = full.normalizer
        if full.pre_tokenizer is not None:
            plain.pre_tokenizer = full.pre_tokenizer
    except Exception as error:  # transformers and tokenizers raise various types for damaged files
        raise TempoError(
            f"{folder} holds no usable Hugging Face fast tokenizer; convert the checkpoint again from a "
            "folder that has tokenizer.json."
        ) from error
    return full, plain


# Classes whose tokenizer.json says everything; transformers, which takes seconds to import, reads the others.
_SELF_CONTAINED = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


def _from_file(folder: Path) -> "tokenizers.Tokenizer | None":
    """Reads tokenizer.json alone; None where tokenizer_config.json adds to it."""
    import tokenizers

    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.is_file() or not config.is_file():
        return None
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.get("tokenizer_class") not in _SELF_CONTAINED or values.get("clean_up_tokenization_spaces"):
        return None
    full = tokenizers.Tokenizer.from_file(str(file))
    known = {token.content for token in full.get_added_tokens_decoder().values()}
    named = [token["content"] for token in values.get("added_tokens_decoder", {}).values()]
    named += [
        values[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if values.get(name)
    ]
    return full if known.issuperset(named) else None


def _from_transformers(folder: str) -> "tokenizers.Tokenizer":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
