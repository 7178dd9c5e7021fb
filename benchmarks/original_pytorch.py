"""The original's way from a video to an answer, in PyTorch on a CPU, for `beside_original.py`.

Its stages are expressed from transformers' own modules (Qwen3-VL and Qwen3, attention by SDPA) after
docs/reference/tempo.md: every question decodes the video, resizes each frame with Pillow, encodes all
segments in one batch, compresses them in one batch of right-padded prompts, allocates, and generates
greedily.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from convert import mapping
from tempo_jax.models.config import QWEN_IDS
from tempo_jax.prompts import Tokenizer, pad_rows
from tempo_jax.video import resize_steps, sample_indices
from tempo_jax.video.sampling import real_fps, segments

try:
    from transformers.initialization import no_init_weights
except ImportError:  # 4.57
    from transformers.modeling_utils import no_init_weights

try:
    import decord
except ImportError:  # no wheels for every Python
    decord = None

SDPA = "sdpa"
FRAME_WINDOW = 8
VIDEO_FPS = 2.0


def read_frames(path: Path, max_frames: int) -> tuple[np.ndarray, float]:
    """The sampled frames, uint8 [F, H, W, 3], and their rate."""
    if decord is not None:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        total, native = len(reader), float(reader.get_avg_fps())
        indices = sample_indices(total, native, VIDEO_FPS, 4, max_frames)
        return reader.get_batch(indices).asnumpy(), real_fps(len(indices), total, native)
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        total, native = stream.frames, float(stream.average_rate)
        indices = sample_indices(total, native, VIDEO_FPS, 4, max_frames)
        wanted = set(indices.tolist())
        frames = [
            frame.to_ndarray(format="rgb24")
            for index, frame in enumerate(container.decode(stream))
            if index in wanted
        ]
    return np.stack(frames), real_fps(len(indices), total, native)


def preprocess(frames: np.ndarray, vision) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patches of all slices, float32 [slices * N, patch_dim] in merge order, and the grid of one slice."""
    steps = resize_steps(*frames.shape[1:3])
    images = [Image.fromarray(frame) for frame in frames]
    for height, width in steps[:2]:
        images = [image.resize((width, height), Image.Resampling.BICUBIC) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    if steps[2] != steps[1]:
        floats = F.interpolate(pixels.float(), steps[2], mode="bicubic", antialias=True, align_corners=False)
        pixels = floats.round().clamp(0, 255)
    pixels = (pixels.float() / 255 - 0.5) / 0.5
    patch, merge, depth = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    grid = (steps[2][0] // patch, steps[2][1] // patch)
    x = pixels.reshape(
        -1, depth, 3, grid[0] // merge, merge, patch, grid[1] // merge, merge, patch
    )  # slices, time, channel, rows (block, in block, pixel), columns (the same)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(-1, 3 * depth * patch * patch), grid


def allocate(relevance: np.ndarray, budget: int, least: int = 4, most: int = 128) -> np.ndarray:
    """Tokens of each segment by relevance (docs/reference/tempo.md#allocation), float32 throughout."""
    count, scores = len(relevance), relevance.astype(np.float32)
    if count * least > budget:
        least = max(1, budget // count)
    span = scores.max() - scores.min()
    if span < 1e-8:
        return np.full(count, min(most, budget // count))
    z = (scores - scores.min()) / span
    ideal = least + np.floor(z * np.float32(most - least)).astype(int)
    if ideal.sum() <= budget:
        return ideal
    extra, weights = budget - count * least, z / z.sum()
    shares = np.floor(weights * np.float32(extra)).astype(int)
    shares[np.argsort(-weights, kind="stable")[: extra - shares.sum()]] += 1
    return np.clip(least + shares, least, most)


class Original:
    """Compressor, projector and LLM of a checkpoint in the published layout."""

    def __init__(self, folder: Path, base: Path, dtype: torch.dtype, config):
        self.config, self.dtype = config, dtype
        self.tokenizer = Tokenizer(folder)
        state = load_file(folder / "model.safetensors")  # memory-mapped
        svlm = f"{mapping.SVLM}vlm."
        parts = {name.removeprefix(svlm): x for name, x in state.items() if name.startswith(svlm)}
        values = json.loads((folder / "config.json").read_text())
        values = {k: v for k, v in values.items() if k not in ("rope_scaling", "model_type")}
        self.svlm = self._module(
            transformers.Qwen3VLForConditionalGeneration,
            transformers.Qwen3VLConfig.from_dict(json.loads((base / "config.json").read_text())),
            parts,
        )
        self.llm = self._module(
            transformers.Qwen3ForCausalLM, transformers.Qwen3Config.from_dict(values), state
        )
        self.memory = state[f"{mapping.SVLM}compression_tokens"][0].to(dtype)
        names = sorted(n for n in state if n.startswith("model.mm_projector.") and n.endswith("weight"))
        self.projector = [(state[n].to(dtype), state[n.replace("weight", "bias")].to(dtype)) for n in names]
        embedding = load_file(base / "model.safetensors")["model.language_model.embed_tokens.weight"]
        yes, no = embedding[QWEN_IDS.yes].float(), embedding[QWEN_IDS.no].float()
        self.direction = yes - no

    def _module(self, kind: type, config, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        config._attn_implementation = SDPA
        with no_init_weights():  # all of them are given
            module = kind(config).eval()
        own = {name: x for name, x in state.items() if name in module.state_dict()}
        missing = set(module.load_state_dict(own, strict=False, assign=True).missing_keys)
        module.tie_weights()
        assert missing <= {mapping.HEAD}, sorted(missing)[:5]
        module.set_attn_implementation(SDPA)
        return module.to(self.dtype)

    @torch.inference_mode()
    def ask(self, path: Path, question: str, *, max_frames: int, budget: int, new_tokens: int, stage):
        """Token ids, allocation and relevance. `stage(name)` is called at the end of each stage."""
        frames, rate = read_frames(path, max_frames)
        stage("decode")
        patches, grid = preprocess(frames, self.config.compressor.vision)
        stage("preprocess")
        parts = segments(len(frames), rate, FRAME_WINDOW)
        slices = [part.num_slices for part in parts]
        grids = torch.tensor([[count, *grid] for count in slices])
        visual = self.svlm.model.visual(patches.to(self.dtype), grid_thw=grids)
        tokens, deepstack = visual.pooler_output, visual.deepstack_features
        stage("vision")
        memory, relevance = self._compress(parts, question, grid, tokens, deepstack)
        stage("compressor")
        allocation = allocate(relevance, budget, most=self.config.memory_tokens)
        x = self._assemble(parts, question, memory, allocation)
        state = self.llm(inputs_embeds=x, use_cache=True, logits_to_keep=1)
        ids = [int(state.logits[0, -1].argmax())]
        stage("prefill")
        while len(ids) < new_tokens and ids[-1] not in self.config.eos_ids:
            token = torch.tensor([[ids[-1]]])
            state = self.llm(
                input_ids=token, past_key_values=state.past_key_values, use_cache=True, logits_to_keep=1
            )
            ids.append(int(state.logits[0, -1].argmax()))
        stage("generate")
        return ids, allocation.tolist(), relevance.tolist()

    def _compress(self, parts, question: str, grid, tokens, deepstack):
        """Memory tokens [S, K, D] and relevance [S] of all segments, in one batch."""
        per_slice, count = grid[0] * grid[1] // 4, len(self.memory)
        asked = self.tokenizer.question_ids(question)
        prefixes = [self.tokenizer.prefix_row(part.slice_seconds, per_slice) for part in parts]
        length = max(map(len, prefixes)) + len(asked) + count
        rows = pad_rows(prefixes, length, (grid[0] // 2, grid[1] // 2))
        ids, starts = torch.from_numpy(rows.token_ids_SL.astype(np.int64)), rows.length_S
        positions = torch.from_numpy(rows.positions_3SL.astype(np.int64))
        mask = torch.zeros(ids.shape, dtype=torch.int64)
        after = torch.arange(len(asked) + count)
        for row, (start, position) in enumerate(zip(starts, rows.next_position_S, strict=True)):
            end = int(start) + len(after)
            ids[row, start : start + len(asked)] = torch.tensor(asked)
            positions[:, row, start:end] = int(position) + after
            mask[row, :end] = 1
        x = self.svlm.get_input_embeddings()(ids)
        is_visual = ids == QWEN_IDS.video_pad
        x[is_visual] = tokens
        firsts = torch.from_numpy(starts.astype(np.int64)) + len(asked)
        for row, first in enumerate(firsts):
            x[row, first : first + count] = self.memory
        hidden = self.svlm.model.language_model(
            inputs_embeds=x,
            position_ids=positions,
            attention_mask=mask,
            visual_pos_masks=is_visual,
            deepstack_visual_embeds=deepstack,
            use_cache=True,  # as in the reference implementation, which has no use for it
        ).last_hidden_state
        memory = torch.stack([hidden[row, first : first + count] for row, first in enumerate(firsts)])
        last = torch.stack([hidden[row, first - 1] for row, first in enumerate(firsts)]).float()
        return memory, torch.sigmoid(last @ self.direction).numpy()

    def _assemble(self, parts, question: str, memory, allocation) -> torch.Tensor:
        """The LLM's input embeddings [1, L, D]."""
        embed = self.llm.get_input_embeddings()
        kept = torch.cat([rows[:count] for rows, count in zip(memory, allocation, strict=True)])
        for index, (weight, bias) in enumerate(self.projector):
            kept = F.linear(F.gelu(kept) if index else kept, weight, bias)
        pieces = [embed(torch.tensor(self.tokenizer.llm_prefix_ids))]
        for part, rows in zip(parts, kept.split(allocation.tolist()), strict=True):
            pieces += [embed(torch.tensor(self.tokenizer.tag_ids(part.tag_seconds))), rows]
        pieces.append(embed(torch.tensor(self.tokenizer.llm_suffix_ids(question))))
        return torch.cat(pieces)[None]
