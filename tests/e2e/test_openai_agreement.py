"""Octet beside vLLM's own OpenAI server on the same checkpoint: equal tokens and log probabilities."""

import json
import urllib.request
from typing import Any

import grpc
import pytest

from octet.v1 import chat_service_pb2 as pb
from octet.v1 import chat_service_pb2_grpc, content_pb2
from tests.e2e.openai_server import OpenAiServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Equal kernels on equal inputs; batches of another size may round differently.
CLOSE = 2e-2


def post(url: str, said: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": said}], **fields}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        choices: list[dict[str, Any]] = json.load(response)["choices"]
    return sorted(choices, key=lambda choice: choice["index"])


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("What is the capital of France?", {"temperature": 0.0, "max_tokens": 16}),
    "sampled": (
        "Tell me a story.",
        {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 17, "max_tokens": 24},
    ),
    "penalized": (
        "Say something.",
        {"temperature": 0.8, "seed": 4, "max_tokens": 20, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    ),
    "several": ("Say something.", {"temperature": 1.0, "seed": 23, "n": 3, "max_tokens": 12}),
    "stopped": ("Tell me a story.", {"temperature": 0.0, "max_tokens": 40, "stop": ["."]}),
}


@pytest.mark.parametrize("name", CASES)
async def test_tokens_and_log_probabilities_agree(in_process: str, openai: OpenAiServer, name: str) -> None:
    said, fields = CASES[name]
    theirs = post(openai.chat, said, logprobs=True, top_logprobs=3, return_tokens_as_token_ids=True, **fields)
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text=said)])
    params = pb.SamplingParams(logprobs=True, top_logprobs=3, **fields)
    async with grpc.aio.insecure_channel(in_process) as channel:
        chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        ours = (await chat.Chat(pb.ChatRequest(messages=[turn], sampling=params))).candidates
    assert len(ours) == len(theirs) == fields.get("n", 1)
    for mine, other in zip(ours, theirs, strict=True):
        assert "".join(part.text for part in mine.message.parts) == (other["message"]["content"] or "")
        positions = other["logprobs"]["content"]
        assert [f"token_id:{position.chosen.token_id}" for position in mine.logprobs] == [
            position["token"] for position in positions
        ]
        for position, expected in zip(mine.logprobs, positions, strict=True):
            assert position.chosen.logprob == pytest.approx(expected["logprob"], abs=CLOSE)
            # There the chosen token comes first, whatever its rank, and counts as one of the top.
            others = [token for token in position.top if token.token_id != position.chosen.token_id]
            top = [position.chosen, *others][:3]
            assert [token.logprob for token in top] == pytest.approx(
                [token["logprob"] for token in expected["top_logprobs"]], abs=CLOSE
            )
