"""Lets the tokens of a picture attend to each other in both directions on CPUs, as Gemma 3 was trained.

vLLM tells its attention backends where the pictures lie, but the one for CPUs knows no such mask and reads
pictures like text. What it does know is a flag for each sequence of a batch that switches the causal mask
off. So the rows of a step are cut where pictures begin and end, and each piece becomes a sequence of its own:
one of text ends where its last row stands and is causal, one of a picture ends with the picture and is not.
The kernel sees the same rows, keys and values in the same order; a step that computes no picture is left as
it is.

A row of a picture then sees everything in front of the picture and all of the picture. In layers with a
sliding window it sees what lies less than the window's width away, on both sides: with pictures not wider
than the window that is the mask of transformers' `create_masks_for_vision_model`. vLLM leaves wider ones out,
so they stay causal.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from octet.engine.vllm import compat

logger = logging.getLogger("vllm.plugins.octet")

# First and last position of a picture's tokens in its prompt.
Span = tuple[int, int]


def register(*, active: bool) -> None:
    """Puts the mask into vLLM's CPU attention, or with `active` false only has its absence logged."""
    compat.pictures.check_cpu_configuration(_check if active else _warn)
    if active:
        compat.pictures.rewrite_cpu_attention_batches(split_at_pictures)
        compat.pictures.shorten_chunks(whole_pictures)


def split_at_pictures(batch: Any) -> Any:
    """A CommonAttentionMetadata whose sequences are text or a picture each, the same rows in the same order.

    Args:
        batch: what vLLM's runner has prepared for a step.

    Returns:
        `batch` itself where the step computes no picture.
    """
    if batch.max_query_len <= 1 or batch.causal is not True or not batch.mm_req_doc_ranges:
        return batch
    if not any(batch.mm_req_doc_ranges.values()):
        return batch
    starts, lengths = batch.query_start_loc_cpu.tolist(), batch.seq_lens.tolist()
    rows, ends, sequences, causal = [0], [], [], []
    for sequence in range(batch.num_reqs):
        first_row, behind_row = starts[sequence : sequence + 2]
        end = lengths[sequence]
        first = end - (behind_row - first_row)
        for behind, in_picture in pieces(first, end, batch.mm_req_doc_ranges.get(sequence, ())):
            rows.append(first_row + behind - first)
            ends.append(behind)
            sequences.append(sequence)
            causal.append(not in_picture)
    if all(causal):
        return batch
    query_start_loc = torch.tensor(rows, dtype=torch.int32)
    return dataclasses.replace(
        batch,
        num_reqs=len(ends),
        query_start_loc=query_start_loc,
        query_start_loc_cpu=query_start_loc,
        seq_lens=torch.tensor(ends, dtype=torch.int32),
        block_table_tensor=batch.block_table_tensor[sequences],
        causal=torch.tensor(causal, dtype=torch.int32),
    )


def pieces(first: int, end: int, pictures: Sequence[Span]) -> Iterator[tuple[int, bool]]:
    """Cuts the positions from `first` to before `end` where pictures begin and end.

    Yields:
        For each piece the position behind it, and whether it lies in a picture. The last one ends at `end`.
    """
    begin = first
    for picture_first, picture_last in pictures:
        left, behind = max(picture_first, begin), min(picture_last + 1, end)
        if left >= behind:
            continue
        if left > begin:
            yield left, False
        yield behind, True
        begin = behind
    if begin < end or begin == first:
        yield end, False


def whole_pictures(first: int, count: int, most: int, pictures: Sequence[Span]) -> int:
    """How many of `count` tokens from position `first` on a step may compute, so that it cuts no picture.

    A picture whose front part comes out of the prefix cache counts too: the keys there were computed with all
    of it, and the rows of its rest must see each other.

    Args:
        first: position of the first token that the step would compute.
        count: how many tokens it would compute.
        most: how many tokens a step can ever compute for one request. A picture that is longer is cut.
        pictures: of the prompt.
    """
    end = first + count
    for picture_first, picture_last in pictures:
        if picture_first < end <= picture_last and picture_last - max(picture_first, first) < most:
            return max(0, picture_first - first)
    return count


def _check(config: Any) -> None:
    """Looks at a configuration before the engine's processes are started.

    Raises:
        ValueError: where a step could not hold a picture.
    """
    model, scheduler = config.model_config, config.scheduler_config
    if model is None or not model.is_mm_prefix_lm:
        return
    tokens = getattr(model.hf_config, "mm_tokens_per_image", 0)
    window = getattr(model.hf_text_config, "sliding_window", None)
    # A running request takes a token of each step first.
    needed = tokens + scheduler.max_num_seqs - 1
    if scheduler.max_num_batched_tokens < needed:
        raise ValueError(
            f"--max-num-batched-tokens {scheduler.max_num_batched_tokens}: the {tokens} tokens of a picture "
            f"are computed in one step, beside up to {scheduler.max_num_seqs - 1} other requests; "
            f"it takes at least {needed}, or fewer --max-num-seqs"
        )
    if 0 < scheduler.long_prefill_token_threshold < tokens:
        raise ValueError(
            f"--long-prefill-token-threshold {scheduler.long_prefill_token_threshold}: the {tokens} tokens "
            f"of a picture are computed in one step; it takes at least {tokens}"
        )
    if window is not None and window < tokens:
        logger.warning(
            "pictures are read causally: their %d tokens are more than the sliding window's %d",
            tokens,
            window,
        )
    else:
        logger.info("the tokens of a picture attend to each other in both directions, as in training")


def _warn(config: Any) -> None:
    """Says what vLLM's CPU attention does to pictures where Octet leaves it alone."""
    if config.model_config is not None and config.model_config.is_mm_prefix_lm:
        logger.warning(
            "pictures are read causally: vLLM's CPU attention has no mask for their tokens, which this model "
            "was trained to read in both directions; answers about pictures are worse than they should be"
        )
