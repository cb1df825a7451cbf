"""Where a step is cut, what vLLM's kernel makes of the pieces, and which chunks cut no picture."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.vllm.inside import picture_attention
from octet.engine.vllm.inside.picture_attention import pieces, split_at_pictures, whole_pictures


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A prompt's length and where its pictures lie."""
    pictures, position = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=5)):
        pictures.append((position + gap, position + gap + length - 1))
        position += gap + length
    return position + draw(st.integers(1, 40)), pictures


@given(prompts(), st.data())
def test_pieces_cover_the_positions_once_and_know_the_pictures(
    prompt: tuple[int, list[tuple[int, int]]], data: st.DataObject
) -> None:
    length, pictures = prompt
    first = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(first + 1, length))
    covered = first
    for behind, in_picture in pieces(first, end, pictures):
        assert behind > covered
        for position in range(covered, behind):
            assert in_picture == any(low <= position <= high for low, high in pictures)
        owners = {i for i, (low, high) in enumerate(pictures) if low < behind and high >= covered}
        assert len(owners) == in_picture
        covered = behind
    assert covered == end


def test_no_rows_remain_a_sequence_without_rows() -> None:
    assert list(pieces(7, 7, [(2, 9)])) == [(7, False)]


@given(prompts(), st.integers(1, 60), st.integers(0, 30))
def test_a_prompt_in_chunks_cuts_no_picture_and_ends(
    prompt: tuple[int, list[tuple[int, int]]], most: int, cached: int
) -> None:
    length, pictures = prompt
    first = min(cached, length - 1)
    while first < length:
        count = whole_pictures(first, min(most, length - first), most, pictures)
        assert count > 0
        end = first + count
        for low, high in pictures:
            if low < end <= high:
                assert high - max(low, first) + 1 > most, "a picture that fits was cut"
        first = end


HEADS, KEY_HEADS, SIZE, BLOCK = 4, 2, 64, 32


def attend(batch: Any, window: int, rows: list[Any], caches: Any) -> torch.Tensor:
    """What vLLM's kernel computes for a batch as its CPU backend would hand it over."""
    from vllm import _custom_ops as ops

    causal = batch.causal is True
    flags = None if causal else batch.causal
    query = torch.cat(rows)
    metadata = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=batch.num_reqs,
        num_heads=HEADS,
        num_kv_heads=KEY_HEADS,
        head_dim=SIZE,
        seq_lens=batch.seq_lens,
        dtype=query.dtype,
        query_start_loc=batch.query_start_loc,
        causal=causal,
        sliding_window_size=window,
        isa="vec",
        enable_kv_split=True,
        dynamic_causal=flags,
    )
    output = torch.zeros_like(query)
    ops.cpu_attention_with_kv_cache(
        query=query,
        key_cache=caches[0],
        value_cache=caches[1],
        output=output,
        query_start_loc=batch.query_start_loc,
        seq_lens=batch.seq_lens,
        scale=SIZE**-0.5,
        causal=causal,
        alibi_slopes=None,
        sliding_window=window,
        block_table=batch.block_table_tensor,
        softcap=0.0,
        scheduler_metadata=metadata,
        s_aux=None,
        dynamic_causal=flags,
    )
    return output


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, window: int, pictures: Any
) -> torch.Tensor:
    """The rows from `first` on under transformers' mask: window and (causal or the same picture)."""
    rows, columns = torch.arange(first, len(key))[:, None], torch.arange(len(key))[None]
    seen = columns <= rows
    for low, high in pictures:
        seen = seen | ((rows >= low) & (rows <= high) & (columns >= low) & (columns <= high))
    if window > 0:
        seen = seen & (columns > rows - window)
    spread = HEADS // KEY_HEADS
    result: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1),
        key.repeat_interleave(spread, 1).transpose(0, 1),
        value.repeat_interleave(spread, 1).transpose(0, 1),
        attn_mask=seen,
    )
    return result.transpose(0, 1)


@pytest.mark.parametrize("window", [-1, 64, 200])
@pytest.mark.parametrize("order", [1, -1])
def test_the_kernel_computes_the_mask_of_transformers(window: int, order: int) -> None:
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backend import CommonAttentionMetadata

    generator = torch.Generator().manual_seed(3)
    # Length, rows computed before, pictures: a whole prompt, one from its middle on, one that begins within a
    # picture because the front came out of the prefix cache, a decoding request, one without pictures.
    requests: list[tuple[int, int, list[tuple[int, int]]]] = [
        (300, 0, [(20, 83), (84, 100), (180, 243)]),
        (900, 640, [(100, 163), (700, 763), (836, 899)]),
        (500, 330, [(300, 363)]),
        (400, 399, [(10, 73)]),
        (77, 30, []),
    ][::order]
    blocks = [-(-length // BLOCK) for length, _, _ in requests]
    order_of_blocks = torch.randperm(sum(blocks), generator=generator).int()
    table = torch.zeros(len(requests), max(blocks), dtype=torch.int32)
    cache = torch.zeros(sum(blocks), KEY_HEADS, BLOCK * 2, SIZE)
    caches = cache.chunk(2, dim=2)
    queries, expected = [], []
    for number, (length, first, pictures) in enumerate(requests):
        own = order_of_blocks[sum(blocks[:number]) : sum(blocks[: number + 1])]
        table[number, : len(own)] = own
        query = torch.randn(length - first, HEADS, SIZE, generator=generator)
        key, value = torch.randn(2, length, KEY_HEADS, SIZE, generator=generator)
        position = torch.arange(length)
        slots = own[position // BLOCK].long() * BLOCK + position % BLOCK
        ops.cpu_attn_reshape_and_cache(key, value, *caches, slots, "vec")
        queries.append(query)
        expected.append(dense(query, key, value, first, window, pictures))
    starts = torch.tensor([0, *torch.tensor([len(q) for q in queries]).cumsum(0)], dtype=torch.int32)
    lengths = torch.tensor([length for length, _, _ in requests], dtype=torch.int32)
    batch = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=lengths,
        num_reqs=len(requests),
        num_actual_tokens=int(starts[-1]),
        max_query_len=max(len(q) for q in queries),
        max_seq_len=int(lengths.max()),
        block_table_tensor=table,
        slot_mapping=torch.zeros(int(starts[-1]), dtype=torch.int64),
        causal=True,
        mm_req_doc_ranges={number: pictures for number, (_, _, pictures) in enumerate(requests)},
    )
    split = split_at_pictures(batch)
    assert split.num_reqs > batch.num_reqs
    result = attend(split, window, queries, caches)
    torch.testing.assert_close(result, torch.cat(expected), atol=2e-5, rtol=1e-4)
    causal = attend(batch, window, queries, caches)
    assert (causal - torch.cat(expected)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("ranges", "rows"), [(None, 5), ({}, 5), ({0: []}, 5), ({0: [(2, 9)]}, 5), ({0: [(10, 90)]}, 1)]
)
def test_a_step_that_computes_no_picture_is_left_as_it_is(ranges: Any, rows: int) -> None:
    from vllm.v1.attention.backend import CommonAttentionMetadata

    starts, lengths = torch.tensor([0, rows], dtype=torch.int32), torch.tensor([50], dtype=torch.int32)
    batch = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=lengths,
        num_reqs=1,
        num_actual_tokens=rows,
        max_query_len=rows,
        max_seq_len=50,
        block_table_tensor=torch.zeros(1, 2, dtype=torch.int32),
        slot_mapping=torch.zeros(rows, dtype=torch.int64),
        causal=True,
        mm_req_doc_ranges=ranges,
    )
    assert split_at_pictures(batch) is batch


class Settings:
    """The part of a VllmConfig that is looked at."""

    def __init__(self, **scheduler: int) -> None:
        self.model_config = self
        self.is_mm_prefix_lm = True
        self.hf_config = type("Config", (), {"mm_tokens_per_image": 256})
        self.hf_text_config = type("TextConfig", (), {"sliding_window": 1024})
        values = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "long_prefill_token_threshold": 0}
        self.scheduler_config = type("Scheduler", (), values | scheduler)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"max_num_batched_tokens": 128}, "--max-num-batched-tokens 128: .* takes at least 511"),
        ({"max_num_batched_tokens": 510}, "--max-num-batched-tokens 510: .* takes at least 511"),
        ({"long_prefill_token_threshold": 255}, "--long-prefill-token-threshold 255: .* at least 256"),
    ],
)
def test_a_step_that_cannot_hold_a_picture_ends_the_start(scheduler: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        picture_attention._check(Settings(**scheduler))


def test_a_step_that_holds_a_picture_beside_all_others_is_enough() -> None:
    picture_attention._check(Settings(max_num_batched_tokens=511, long_prefill_token_threshold=256))
