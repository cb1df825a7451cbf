"""What an engine gives, as responses: whole, and in pieces."""

import struct

from octet.engine.types import (
    CandidateFinished,
    Delta,
    Deltas,
    FinishReason,
    LogprobsDelta,
    ModelInfo,
    PositionLogprobs,
    PromptAccepted,
    TextDelta,
    TokenLogprob,
    Usage,
)
from octet.translate.kserve.answer import Answer
from octet.translate.kserve.request import to_inference
from octet.translate.sampling import MAX_CANDIDATES
from tests.kserve import make

MODEL = ModelInfo(
    names=("fake",),
    source="tests/fake",
    takes_images=False,
    context_window=4096,
    output_token_limit=1024,
    quantization=None,
    active_kernels=(),
    max_images=0,
    tokens_per_image=0,
    vocabulary_size=1000,
)
LIKELY = PositionLogprobs(TokenLogprob(5, "a", b"a", -0.25, 1), ())


def step(tokens: int, *deltas: Delta) -> Deltas:
    return Deltas(deltas, Usage(7, tokens, 0, 0))


def test_tokens_of_several_completions_are_told_apart() -> None:
    request = make(
        False,
        ("text_input", "x"),
        ("stream", True),
        ("sampling_parameters", '{"n": 2}'),
        ("return_num_output_tokens", True),
        ("return_finish_reason", True),
    )
    inference = to_inference(request, MODEL, streaming=True)
    assert inference.completion.sampling.logprobs
    answer = Answer(inference)
    answer.add(PromptAccepted(7, 0))
    assert not answer.adds
    answer.add(step(2, TextDelta(0, "a"), LogprobsDelta(0, (LIKELY,)), LogprobsDelta(1, (LIKELY,))))
    answer.add(step(3, TextDelta(1, "bc"), LogprobsDelta(1, (LIKELY,))))
    text, reasons, counts = (one.contents for one in answer.response(in_stream=True).outputs)
    assert list(text.bytes_contents) == [b"a", b"bc"]
    assert list(reasons.bytes_contents) == [b"None", b"None"]
    assert list(counts.uint_contents) == [1, 2]
    assert not answer.adds
    ends = (CandidateFinished(0, FinishReason.LENGTH), CandidateFinished(1, FinishReason.SCHEMA_VIOLATED))
    answer.add(step(3, ends[0]))
    assert not answer.response(in_stream=True).parameters["triton_final_response"].bool_param
    answer.add(step(3, ends[1]))
    last = answer.response(in_stream=True)
    text, reasons, counts = (one.contents for one in last.outputs)
    assert last.parameters["triton_final_response"].bool_param
    assert list(text.bytes_contents) == [b"", b""]
    assert list(reasons.bytes_contents) == [b"length", b"schema_violated"]
    assert list(counts.uint_contents) == [0, 0]


def test_no_more_completions_are_made_ready_than_any_request_may_have() -> None:
    """The answer is there before the request has been checked, and cancelled requests never are."""
    request = make(False, ("text_input", "x"), ("sampling_parameters", '{"n": 100000}'))
    answer = Answer(to_inference(request, MODEL, streaming=True))
    [text] = answer.response(in_stream=False).outputs
    assert list(text.shape) == [MAX_CANDIDATES]


def test_raw_elements_are_as_numpy_reads_them() -> None:
    request = make(True, ("text_input", "é"), ("return_num_input_tokens", True))
    request.outputs.add(name="cumulative_logprob")
    request.outputs.add(name="text_output")
    request.outputs.add(name="num_input_tokens")
    answer = Answer(to_inference(request, MODEL, streaming=False))
    answer.add(step(2, TextDelta(0, "ü"), LogprobsDelta(0, (LIKELY, LIKELY))))
    answer.add(step(2, CandidateFinished(0, FinishReason.STOP)))
    response = answer.response(in_stream=False)
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
        ("text_output", "BYTES", [1]),
        ("cumulative_logprob", "FP32", [1]),
        ("num_input_tokens", "UINT32", [1]),
    ]
    assert list(response.raw_output_contents) == [
        b"\4\0\0\0" + "éü".encode(),
        struct.pack("<f", -0.5),
        b"\7\0\0\0",
    ]
