import pytest

from octet.client import Answer, ToolCall
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2


def test_empty_answer() -> None:
    answer = Answer(chat_service_pb2.ChatResponse())
    assert (answer.text, answer.tool_calls, answer.finish_reason) == ("", [], "UNSPECIFIED")


def test_text_and_calls_of_the_first_candidate() -> None:
    response = chat_service_pb2.ChatResponse(id="r1")
    call = tool_pb2.ToolCall(id="c", name="f", arguments_json='{"x": 1}')
    parts = [content_pb2.Part(text="a"), content_pb2.Part(tool_call=call), content_pb2.Part(text="b")]
    response.candidates.add(
        message=content_pb2.Message(parts=parts), finish_reason=chat_service_pb2.FINISH_REASON_TOOL_CALLS
    )
    response.candidates.add(index=1, message=content_pb2.Message(parts=[content_pb2.Part(text="other")]))
    answer = Answer(response)
    assert (answer.request_id, answer.text, answer.finish_reason) == ("r1", "ab", "TOOL_CALLS")
    assert answer.tool_calls == [ToolCall("c", "f", '{"x": 1}')]
    assert answer.tool_calls[0].arguments == {"x": 1}


def test_arguments_that_are_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        _ = ToolCall("c", "f", '{"x":').arguments
