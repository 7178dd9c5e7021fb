"""A small tokenizer of our own whose ids are Qwen's wherever a prompt fixes them.

The published checkpoints come with the Qwen tokenizer (11 MB); random tiny weights do not need it.
This one is byte-level BPE with the 256 bytes, the special tokens and the few merges that the
prompts' own words take, all under their Qwen ids: system prompts, role names, time tags, "Yes"
and "No" tokenize to the same ids as with the real one. Any other text falls back to its bytes.

    demo_tokenizer.write("build/tiny/Tempo-6B")
    transformers.AutoTokenizer.from_pretrained("build/tiny/Tempo-6B")
"""

import json
from pathlib import Path

SPECIAL = (  # ids 151643, 151644, …
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
FIRST_SPECIAL_ID = 151_643

# "id left right": a merge and the id of its result. In Qwen's vocabulary a merge's id is 256 plus
# its rank, so the order of ids is the order of merging.
MERGES = """\
258 i n; 259 Ġ t; 261 e r; 263 o n; 264 Ġ a; 265 r e; 266 a t; 267 s t; 268 e n; 269 o r; 270 Ġt h
272 Ġ c; 273 l e; 274 Ġ s; 275 i t; 276 a n; 277 a r; 278 a l; 279 Ġth e; 281 Ġ p; 283 o u; 285 i s
287 in g; 288 e s; 289 Ġ w; 290 i on; 291 e d; 292 i c; 293 Ġ b; 294 Ġ d; 295 e t; 296 Ġ m; 299 r o
300 a s; 301 e l; 302 c t; 304 Ġ in; 305 Ġ h; 306 en t; 307 i d; 308 Ġ n; 311 Ġt o; 312 Ġ re
316 o m; 318 i m; 321 i l; 324 u r; 327 e x; 328 Ġ S; 336 e m; 337 o l; 348 Ġ v; 351 a g; 355 u s
358 Ġ I; 360 u l; 363 o w; 364 Ġ '; 367 at ion; 374 Ġ is; 380 i st; 387 Ġb e; 389 Ġ on; 390 Ġc on
391 a p; 395 as s; 397 > Ċ; 398 l y; 399 ur n; 404 i r; 413 ou r; 416 re s; 419 Ġth is; 424 ag e
427 ex t; 438 Ġa s; 443 c on; 446 q u; 451 Ġ N; 458 Ġa n; 460 o re; 461 r i; 462 Ġp ro; 467 Ġ W
469 Ġc om; 476 Ġ or; 478 m ent; 485 er e; 493 or m; 505 Ġ ex; 510 : Ċ; 511 Ġs e; 517 an t; 525 Ġa re
531 a ct; 539 or d; 541 al l; 544 on t; 577 id e; 597 y st; 604 a il; 612 yst em; 627 f orm
673 res s; 676 ap p; 679 or y; 680 it ion; 683 Ġcon t; 713 ic h; 722 er y; 724 en s; 740 c ri
794 ĠS t; 818 C ont; 834 Ġn e; 872 us er; 922 Ġ qu; 928 u al; 1003 r it; 1020 an n; 1071 Ġas s
1184 Ġne ed; 1207 Ġ Q; 1210 ' :; 1232 ĠW h; 1262 f ul; 1267 el p; 1297 con d; 1301 v id; 1308 Ġm in
1324 f ore; 1367 Ġcom p; 1371 b e; 1375 Ġc ol; 1492 Ġh elp; 1573 Ġbe fore; 1588 Ġh ere
1627 form ation; 1628 et ail; 1639 W h; 1803 Ġc ar; 1805 im age; 1833 Ġm em; 1888 ide o; 1960 t en
1972 Cont ext; 1995 Ġin formation; 2059 Ġpro vid; 2086 Ġse cond; 2098 Ġv is; 2107 Ġw rit; 2132 I t
2183 Q u; 2213 Ġcont ent; 2237 etail s; 2255 Ġh app; 2260 ord s; 2280 s w; 2484 Ġt urn; 2518 Ġre d
2610 Y ou; 2753 N o; 2766 Ġv ideo; 2859 Qu ery; 2861 im al; 3114 cri be; 3239 Ġqu ery; 3406 ĠQ u
3449 le v; 3555 ĠWh at; 3559 sw er; 3565 Ġd etails; 3838 Wh at; 3897 Ġprovid ed; 4226 Ġan swer
4244 Ġw ords; 4362 Ġneed ed; 4695 ĠN ow; 4734 Ġex act; 4810 Ġse g; 4887 ann er; 4896 D es; 4905 g n
4935 Ġb all; 4938 Ġmem ory; 5326 Ġwrit ten; 6216 Ġ ir; 6486 Ġsecond s; 6896 Ġexact ly; 7716 Ġd etail
7789 Ġass ist; 8367 lev ant; 8573 Ġhapp ens; 8948 s ystem; 9056 cond ition; 9124 Ġvis ual
9129 ĠSt ore; 9454 Y es; 9628 Ġto k; 9760 Ġre levant; 9986 v ideo; 10238 Ġseg ment; 10289 gn ore
10950 Ġhelp ful; 11202 ist ant; 11211 Ġtok ens; 11361 ĠQu ery; 12463 Ġcol our; 17377 Ġmin imal
17847 Ġassist ant; 23085 Wh ich; 23323 Ġb anner; 24611 Ġcomp ress; 24870 Ġir re; 38971 ĠI gnore
39715 Ġirre levant; 58005 - condition; 58877 Ġcompress or; 74785 Des cribe; 77091 ass istant
"""

# Qwen's splitting rule: words with a leading space, single digits, punctuation, line ends.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in order of their ids.

    GPT-2's convention: bytes that print come first and stand for themselves, the others follow as
    U+0100, U+0101, … (so a space is "Ġ", a newline "Ċ").
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]


def merges() -> list[tuple[int, str, str]]:
    """`MERGES` parsed: (id of the result, left token, right token), lowest id first."""
    entries = (entry.split() for line in MERGES.splitlines() for entry in line.split("; "))
    return [(int(number), left, right) for number, left, right in entries]


def vocabulary(fill: bool) -> dict[str, int]:
    """Token to id; `fill` names every unused id below the special tokens "[id]"."""
    tokens = {character: i for i, character in enumerate(byte_characters())}
    tokens.update({left + right: number for number, left, right in merges()})
    if fill:
        used = set(tokens.values())
        tokens.update({f"Ġ[{i}]": i for i in range(FIRST_SPECIAL_ID) if i not in used})
    # The special tokens stand in the vocabulary too: only then do added tokens keep ids that are
    # not simply the next free ones.
    tokens.update({token: FIRST_SPECIAL_ID + i for i, token in enumerate(SPECIAL)})
    return tokens


def tokenizer_json(fill: bool) -> dict:
    """The content of tokenizer.json as the `tokenizers` library reads it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": FIRST_SPECIAL_ID + i, "content": token, **flags} for i, token in enumerate(SPECIAL)
        ],
        "normalizer": None,  # Qwen normalises to NFC; we give back exactly what came in
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary(fill),
            "merges": [[left, right] for _, left, right in merges()],
        },
    }


def write(folder: str | Path, fill: bool = False) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder`.

    fill: also name every id the real vocabulary has and this one lacks, as "[48213]". Random
        weights answer with such ids; without names their answers would print as nothing. Costs
        4 MB and changes no encoding.
    """
    rules = json.dumps(tokenizer_json(fill), ensure_ascii=False, separators=(",", ":"))
    write_files(Path(folder), rules, longest=262_144)


def write_files(folder: Path, rules: str, longest: int) -> None:
    """All files of a tokenizer whose tokenizer.json is `rules`, for texts of at most `longest` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
    }
    files = {
        "tokenizer.json": rules,
        "tokenizer_config.json": json.dumps(config, indent=1),
        "chat_template.jinja": CHAT_TEMPLATE,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
