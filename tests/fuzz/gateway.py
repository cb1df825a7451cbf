"""What an SMG gateway may ask for: prompts of tokens, nearly right."""

from typing import Any

from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2

from tests.fuzz.constraints import grammars, regexes, schema_texts
from tests.fuzz.messages import REQUEST_IDS, texts
from tests.fuzz.pictures import picture_uris

_IMAGE = 1

_IDS = st.lists(st.one_of(st.integers(2, 300), st.sampled_from([0, 1, 511, 2**20, 2**32 - 1])), max_size=30)
_SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.0, 0.7, -1.0, float("nan"), float("inf")]),
    "top_p": st.sampled_from([0.5, 1.0, 0.0, 2.0]),
    "top_k": st.sampled_from([0, 1, 2**32 - 1]),
    "min_p": st.sampled_from([0.0, 1.0, -0.5]),
    "frequency_penalty": st.sampled_from([-2.0, 3.0]),
    "presence_penalty": st.sampled_from([2.0, float("nan")]),
    "repetition_penalty": st.sampled_from([0.0, 1.5, -1.0]),
    "min_tokens": st.sampled_from([0, 3, 2**32 - 1]),
    "stop": st.lists(texts, max_size=3),
    "stop_token_ids": _IDS,
    "ignore_eos": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "n": st.sampled_from([0, 1, 3, 16, 17, 2**32 - 1]),
    "logprobs": st.sampled_from([0, 5, 20, 21, -1, -2, 2**31 - 1]),
    "prompt_logprobs": st.sampled_from([0, 5, -1, -2, 2**31 - 1]),
    "seed": st.integers(-(2**31), 2**31 - 1),
    "truncate_prompt_tokens": st.sampled_from([1, 0, -1, -2, 2**31 - 1]),
    "logit_bias": st.dictionaries(
        st.sampled_from([-1, 5, 299, 2**31 - 1]), st.sampled_from([1.0, float("nan")])
    ),
    "json_schema": schema_texts(),
    "regex": regexes(),
    "grammar": grammars(),
    "structural_tag": st.sampled_from(["", "{}", '{"structures": [], "triggers": []}', "["]),
    "json_object": st.booleans(),
    "max_tokens": st.sampled_from([0, 1, 2**32 - 1]),
}


@st.composite
def generate_requests(draw: st.DrawFn) -> vllm_engine_pb2.GenerateRequest:
    """A request to Generate with little or nothing wrong with it."""
    request = vllm_engine_pb2.GenerateRequest(
        request_id=draw(st.sampled_from(["", *REQUEST_IDS])), stream=draw(st.booleans())
    )
    if draw(st.integers(0, 3)):
        request.tokenized.input_ids.extend(draw(_IDS) * draw(st.sampled_from([1, 1, 1, 300])))
        request.tokenized.original_text = draw(texts)
    else:
        request.text = draw(texts)
    sampling = request.sampling_params
    sampling.max_tokens = draw(st.integers(1, 16))
    for name in draw(st.lists(st.sampled_from(list(_SAMPLING)), max_size=3, unique=True)):
        value = draw(_SAMPLING[name])
        if isinstance(value, dict):
            sampling.logit_bias.update(value)
        elif isinstance(value, list):
            getattr(sampling, name).extend(value)
        else:
            setattr(sampling, name, value)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        request.media_refs.items.add(
            modality=draw(st.sampled_from([_IMAGE, 0, 2, 9])), url=draw(picture_uris())
        )
    return request
