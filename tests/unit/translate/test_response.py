from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.types import (
    CandidateFinished,
    Delta,
    Deltas,
    Event,
    FinishReason,
    LogprobsDelta,
    PositionLogprobs,
    PromptAccepted,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from octet.translate.chunks import ChunkAccumulator
from octet.translate.response import add_usage, delta_chunk, first_chunk, to_chat_response
from octet.translate.values import struct_to_dict
from octet.v1 import chat_service_pb2 as pb
from octet.v1 import content_pb2

TIME = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ACCEPTED = PromptAccepted(prompt_tokens=10, image_tokens=4)
USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=2, image_tokens=4)


def step(*deltas: Delta, usage: Usage = USAGE) -> Deltas:
    return Deltas(deltas, usage)


def begin(call_index: int, call_id: str, name: str, arguments: str = "", index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index, call_index, call_id, name, arguments)


def more(call_index: int, arguments: str, index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index, call_index, "", "", arguments)


def position(token_id: int) -> PositionLogprobs:
    token = TokenLogprob(token_id, "a\ufffd", b"a\xc3", -0.5, 2)
    return PositionLogprobs(token, (TokenLogprob(9, "b", b"b", -0.25, 1), token))


def deltas(*steps: Deltas) -> list[pb.CandidateDelta]:
    return list(delta_chunk(steps).deltas)


def head(accepted: PromptAccepted = ACCEPTED) -> pb.ChatChunk:
    return first_chunk(accepted, request_id="r1", model="gemma", create_time=TIME)


def answer(*events: Event) -> pb.ChatResponse:
    return to_chat_response([ACCEPTED, *events], request_id="r1", model="gemma", create_time=TIME)


def test_the_first_chunk() -> None:
    chunk = head()
    assert (chunk.id, chunk.model) == ("r1", "gemma")
    assert chunk.create_time.ToDatetime(UTC) == TIME
    assert chunk.usage == pb.Usage(prompt_tokens=10, total_tokens=10, image_tokens=4)
    assert not chunk.deltas


def test_the_last_chunk() -> None:
    usage = pb.Usage(prompt_tokens=10, completion_tokens=5, total_tokens=15, cached_tokens=2, image_tokens=4)
    chunk = delta_chunk([step(TextDelta(0, "a"))])
    assert not chunk.HasField("usage")
    add_usage(chunk, USAGE)
    assert chunk == pb.ChatChunk(deltas=[pb.CandidateDelta(text="a")], usage=usage)


class TestDeltaChunk:
    def test_neighbouring_text_is_merged(self) -> None:
        steps = step(TextDelta(0, "a"), TextDelta(0, "b")), step(TextDelta(0, "c"))
        assert deltas(*steps) == [pb.CandidateDelta(text="abc")]

    def test_candidates_are_kept_apart(self) -> None:
        merged = deltas(step(TextDelta(1, "a"), TextDelta(0, "b")), step(TextDelta(1, "c")))
        assert merged == [pb.CandidateDelta(index=1, text="ac"), pb.CandidateDelta(index=0, text="b")]

    def test_a_whole_answer_in_order_takes_one_delta(self) -> None:
        (merged,) = deltas(
            step(TextDelta(0, "I look."), begin(0, "c1", "f", '{"a"')),
            step(more(0, ": 1}"), begin(1, "c2", "g"), more(1, "{}")),
            step(CandidateFinished(0, FinishReason.TOOL_CALLS)),
        )
        assert merged == pb.CandidateDelta(
            text="I look.",
            tool_calls=[
                pb.ToolCallDelta(index=0, id="c1", name="f", arguments_json='{"a": 1}'),
                pb.ToolCallDelta(index=1, id="c2", name="g", arguments_json="{}"),
            ],
            finish_reason=pb.FINISH_REASON_TOOL_CALLS,
        )

    def test_text_after_a_call_takes_another(self) -> None:
        merged = deltas(step(begin(0, "c1", "f", "{}"), TextDelta(0, "a"), TextDelta(0, "b")))
        assert merged == [
            pb.CandidateDelta(tool_calls=[pb.ToolCallDelta(id="c1", name="f", arguments_json="{}")]),
            pb.CandidateDelta(text="ab"),
        ]

    def test_reasoning_comes_before_text(self) -> None:
        merged = deltas(step(ReasoningDelta(0, "a"), ReasoningDelta(0, "b"), TextDelta(0, "c")))
        assert merged == [pb.CandidateDelta(reasoning="ab", text="c")]

    def test_reasoning_after_text_or_calls_takes_another(self) -> None:
        merged = deltas(step(TextDelta(0, "a"), ReasoningDelta(0, "b"), begin(0, "c1", "f", "{}")))
        assert [(delta.text, delta.reasoning, len(delta.tool_calls)) for delta in merged] == [
            ("a", "", 0),
            ("", "b", 1),
        ]
        assert len(deltas(step(begin(0, "c1", "f", "{}"), ReasoningDelta(0, "b")))) == 2

    def test_pieces_of_two_calls_keep_their_order(self) -> None:
        (merged,) = deltas(step(more(0, "a"), more(1, "b"), more(0, "c"), more(0, "d")))
        assert [(call.index, call.arguments_json) for call in merged.tool_calls] == [
            (0, "a"),
            (1, "b"),
            (0, "cd"),
        ]

    def test_nothing_gives_nothing(self) -> None:
        assert deltas() == []
        assert deltas(step(), step(TextDelta(0, ""), more(0, ""))) == []

    def test_log_probabilities_run_ahead_of_the_text(self) -> None:
        (merged,) = deltas(
            step(LogprobsDelta(0, (position(4),))), step(LogprobsDelta(0, ()), TextDelta(0, "a"))
        )
        chosen = pb.TokenLogprob(token_id=4, token="a\ufffd", data=b"a\xc3", logprob=-0.5, rank=2)
        best = pb.TokenLogprob(token_id=9, token="b", data=b"b", logprob=-0.25, rank=1)
        assert merged == pb.CandidateDelta(
            text="a", logprobs=[pb.PositionLogprobs(chosen=chosen, top=[best, chosen])]
        )

    def test_a_prompts_first_token_has_no_probability(self) -> None:
        chunk = delta_chunk([Deltas((), USAGE, (PositionLogprobs(None, ()), position(1)))])
        assert not chunk.prompt_logprobs[0].HasField("chosen")
        assert chunk.prompt_logprobs[1].chosen.token_id == 1

    @pytest.mark.parametrize("reason", FinishReason)
    def test_every_finish_reason_has_its_name(self, reason: FinishReason) -> None:
        (merged,) = deltas(step(CandidateFinished(3, reason)))
        assert merged.index == 3
        assert pb.FinishReason.Name(merged.finish_reason) == f"FINISH_REASON_{reason.name}"

    @pytest.mark.parametrize(
        ("stop", "field"),
        [
            ("", "stop_string"),
            ("a", "stop_string"),
            (0, "stop_token_id"),
            (106, "stop_token_id"),
            (None, None),
        ],
    )
    def test_what_ended_a_candidate(self, stop: str | int | None, field: str | None) -> None:
        (merged,) = deltas(step(TextDelta(0, "b"), CandidateFinished(0, FinishReason.STOP, stop)))
        assert merged.WhichOneof("stop") == field
        assert field is None or getattr(merged, field) == stop


class TestChatResponse:
    def test_text(self) -> None:
        response = answer(
            step(TextDelta(0, "It is "), usage=Usage(10, 2, 2, 4)),
            step(TextDelta(0, "red."), CandidateFinished(0, FinishReason.STOP)),
        )
        expected = pb.ChatResponse(
            id="r1",
            model="gemma",
            candidates=[
                pb.Candidate(
                    message=content_pb2.Message(
                        role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text="It is red.")]
                    ),
                    finish_reason=pb.FINISH_REASON_STOP,
                )
            ],
            usage=pb.Usage(
                prompt_tokens=10, completion_tokens=5, total_tokens=15, cached_tokens=2, image_tokens=4
            ),
        )
        expected.create_time.FromDatetime(TIME)
        assert response == expected

    def test_parts_come_in_the_order_in_which_they_were_written(self) -> None:
        response = answer(
            step(TextDelta(0, "a"), begin(0, "c1", "f", "{"), more(0, '"x": 1}'), TextDelta(0, "b")),
            step(TextDelta(0, "c"), begin(1, "c2", "g", "{}")),
        )
        parts = response.candidates[0].message.parts
        assert [part.WhichOneof("kind") for part in parts] == ["text", "tool_call", "text", "tool_call"]
        assert [part.text for part in parts] == ["a", "", "bc", ""]
        first = parts[1].tool_call
        assert (first.id, first.name, first.arguments_json) == ("c1", "f", '{"x": 1}')
        assert struct_to_dict(first.arguments) == {"x": 1}

    def test_reasoning_is_a_part_of_its_own(self) -> None:
        response = answer(step(ReasoningDelta(0, "hm")), step(ReasoningDelta(0, "m"), TextDelta(0, "Yes.")))
        assert list(response.candidates[0].message.parts) == [
            content_pb2.Part(reasoning="hmm"),
            content_pb2.Part(text="Yes."),
        ]

    def test_candidates_come_by_index(self) -> None:
        response = answer(
            step(TextDelta(2, "c"), TextDelta(0, "a")),
            step(CandidateFinished(1, FinishReason.LENGTH), CandidateFinished(0, FinishReason.STOP)),
        )
        assert [candidate.index for candidate in response.candidates] == [0, 1, 2]
        assert [candidate.finish_reason for candidate in response.candidates] == [
            pb.FINISH_REASON_STOP,
            pb.FINISH_REASON_LENGTH,
            pb.FINISH_REASON_UNSPECIFIED,
        ]
        assert not response.candidates[1].message.parts

    @pytest.mark.parametrize(
        ("arguments_json", "arguments"),
        [
            ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
            ("{}", {}),
            ("", None),
            ("[1]", None),
            ('{"a": ', None),
            ('{"a": NaN}', None),
            ('{"a": 1e999}', None),
            ('{"a": "\\ud800"}', None),
            ('{"a": ' * 30 + "1" + "}" * 30, None),
        ],
    )
    def test_arguments_are_structured_where_a_struct_can_hold_them(
        self, arguments_json: str, arguments: object
    ) -> None:
        response = answer(step(begin(0, "c1", "f", arguments_json)))
        call = response.candidates[0].message.parts[0].tool_call
        assert call.arguments_json == arguments_json
        assert call.HasField("arguments") == (arguments is not None)
        if arguments is not None:
            assert struct_to_dict(call.arguments) == arguments
        assert pb.ChatResponse.FromString(response.SerializeToString()) == response


def test_a_response_can_be_looked_at_while_it_grows() -> None:
    accumulator = ChunkAccumulator()
    assert accumulator.response() == pb.ChatResponse()
    accumulator.add(head())
    assert accumulator.response().usage.prompt_tokens == 10
    accumulator.add(delta_chunk([step(TextDelta(0, "a"))]))
    early = accumulator.response()
    accumulator.add(delta_chunk([step(TextDelta(0, "b"))]))
    assert early.candidates[0].message.parts[0].text == "a"
    assert accumulator.response().candidates[0].message.parts[0].text == "ab"
    assert accumulator.response() == accumulator.response()


@st.composite
def answers(draw: st.DrawFn) -> list[Deltas]:
    """The steps of an engine that writes candidates at once, of reasoning, text and calls in any order."""
    candidate = st.integers(0, 2)
    kind = st.sampled_from(["text", "reasoning", "begin", "first", "latest", "logprobs"])
    fragment = st.sampled_from(["", "a", "é ", "{}", '{"x": ', "1}"])
    flat: list[Delta] = []
    calls = [0, 0, 0]
    for index, what, piece in draw(st.lists(st.tuples(candidate, kind, fragment), max_size=20)):
        if what == "begin":
            flat.append(begin(calls[index], f"c{index}-{calls[index]}", "f", piece, index))
            calls[index] += 1
        elif what == "reasoning":
            flat.append(ReasoningDelta(index, piece))
        elif what == "logprobs":
            flat.append(LogprobsDelta(index, (position(len(flat)),)))
        elif what == "text" or not calls[index]:
            flat.append(TextDelta(index, piece))
        else:
            flat.append(more(0 if what == "first" else calls[index] - 1, piece, index))
    stop = st.sampled_from([None, "", "a", 0, 7])
    flat += [CandidateFinished(index, draw(st.sampled_from(FinishReason)), draw(stop)) for index in range(3)]
    steps: list[Deltas] = []
    while flat:
        taken = draw(st.integers(1, 4))
        prompt = () if steps else (PositionLogprobs(None, ()), position(1))
        steps.append(Deltas(tuple(flat[:taken]), Usage(10, len(steps), 2, 4), prompt))
        del flat[:taken]
    return steps


def pieces(message: content_pb2.Message) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "tool_call":
                call = part.tool_call
                found.append((call.id, call.name, call.arguments_json))
            case "reasoning":
                found.append(("reasoning", part.reasoning))
            case _:
                found.append(("text", part.text))
    return found


def pieces_written(steps: Sequence[Deltas], index: int) -> list[tuple[str, ...]]:
    """What the steps say of one candidate, put together in the plainest way."""
    parts: list[list[str]] = []
    calls: dict[int, list[str]] = {}
    for delta in (delta for step_ in steps for delta in step_.deltas if delta.index == index):
        if isinstance(delta, ToolCallDelta):
            if delta.id:
                calls[delta.call_index] = [delta.id, delta.name, ""]
                parts.append(calls[delta.call_index])
            calls[delta.call_index][2] += delta.arguments_json
        elif isinstance(delta, TextDelta | ReasoningDelta) and delta.text:
            kind = "text" if isinstance(delta, TextDelta) else "reasoning"
            if not parts or parts[-1][0] != kind:
                parts.append([kind, ""])
            parts[-1][1] += delta.text
    return [tuple(part) for part in parts]


@given(answers(), st.data())
def test_the_streamed_answer_is_the_whole_one(steps: list[Deltas], data: st.DataObject) -> None:
    whole = answer(*steps)
    assert [candidate.index for candidate in whole.candidates] == [0, 1, 2]
    stops = {
        delta.index: delta.stop
        for step_ in steps
        for delta in step_.deltas
        if isinstance(delta, CandidateFinished)
    }
    for candidate in whole.candidates:
        stop = candidate.WhichOneof("stop")
        assert (getattr(candidate, stop) if stop else None) == stops[candidate.index]
        assert pieces(candidate.message) == pieces_written(steps, candidate.index)
        assert [p.chosen.token_id for p in candidate.logprobs] == [
            p.chosen.token_id
            for step_ in steps
            for delta in step_.deltas
            if isinstance(delta, LogprobsDelta) and delta.index == candidate.index
            for p in delta.positions
            if p.chosen is not None
        ]
    assert len(whole.prompt_logprobs) == 2

    # However steps are merged into chunks, and over the wire.
    accumulator = ChunkAccumulator()
    chunks = [head()]
    rest = list(steps)
    while rest:
        taken = data.draw(st.integers(1, len(rest)))
        chunks.append(delta_chunk(rest[:taken]))
        del rest[:taken]
    add_usage(chunks[-1], steps[-1].usage)
    for chunk in chunks:
        accumulator.add(pb.ChatChunk.FromString(chunk.SerializeToString()))
    assert accumulator.response() == whole
