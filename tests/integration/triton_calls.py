"""A program that calls a server with Triton's own client, as its users would.

    python -m tests.integration.triton_calls CALL HOST:PORT [KEY]

A process of its own, for the client's messages have the names that Octet's have, and a process can know only
one of them. What came is JSON on standard output.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.descriptors import described

TARGET = sys.argv[2] if len(sys.argv) > 2 else ""
HEADERS = {"authorization": f"Bearer {sys.argv[3]}"} if len(sys.argv) > 3 else None


def tensor(name: str, value: Any) -> triton.InferInput:
    """An input with one element, or with those of a list."""
    values = value if isinstance(value, list) else [value]
    is_flag = isinstance(values[0], bool)
    array = np.array(values, dtype=bool if is_flag else np.object_)
    made = triton.InferInput(name, [len(values)], "BOOL" if is_flag else "BYTES")
    made.set_data_from_numpy(array)
    return made


def inputs(text: str, **others: Any) -> list[triton.InferInput]:
    """The inputs of a request."""
    return [tensor(name, value) for name, value in {"text_input": text.encode(), **others}.items()]


def shown(result: Any) -> dict[str, Any]:
    """A result's outputs and final flag, as JSON can have them."""
    response = result.get_response()
    found: dict[str, Any] = {"id": response.id}
    for output in response.outputs:
        array = result.as_numpy(output.name)
        found[output.name] = [item.decode() if isinstance(item, bytes) else item for item in array.tolist()]
    if "triton_final_response" in response.parameters:
        found["final"] = response.parameters["triton_final_response"].bool_param
    return found


SAMPLING = json.dumps({"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}).encode()


def blocking() -> Any:
    """The whole of a client's calls, one after the other."""
    with triton.InferenceServerClient(TARGET) as client:
        config = client.get_model_config("fake", headers=HEADERS, as_json=True)["config"]
        metadata = client.get_model_metadata("fake", headers=HEADERS, as_json=True)
        wanted = [triton.InferRequestedOutput(name) for name in ("text_output", "finish_reason")]
        result = client.infer(
            "fake",
            inputs("one two", sampling_parameters=SAMPLING, exclude_input_in_output=True),
            request_id="7",
            outputs=wanted,
            priority=0,
            client_timeout=30,
            headers=HEADERS,
        )
        return {
            "live": client.is_server_live(headers=HEADERS),
            "ready": client.is_server_ready(headers=HEADERS),
            "model": client.is_model_ready("fake", headers=HEADERS),
            "other": client.is_model_ready("other", headers=HEADERS),
            "server": client.get_server_metadata(headers=HEADERS, as_json=True)["name"],
            "inputs": [one["name"] for one in metadata["inputs"]],
            "config": [one["name"] for one in config["input"]],
            "decoupled": config["model_transaction_policy"]["decoupled"],
            "result": shown(result),
        }


def refused() -> Any:
    """What a wrong request, a model that is not there, and a late answer are told."""
    said = []
    with triton.InferenceServerClient(TARGET) as client:
        for model, given, options in (
            ("fake", inputs("x", sampling_parameters=b'{"temperature": 7}'), {}),
            ("other", inputs("x"), {}),
            ("fake", inputs("x"), {"timeout": 200_000}),
            ("fake", inputs("x"), {"client_timeout": 0.2}),
        ):
            try:
                client.infer(model, given, headers=HEADERS, **options)
            except InferenceServerException as error:
                said.append([error.status(), error.message()])
    return said


def streaming() -> Any:
    """Two requests on one stream, one of them wrong, by callback."""
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(TARGET) as client:
        client.start_stream(lambda result, error: results.put((result, error)), headers=HEADERS)
        client.async_stream_infer("fake", inputs("one two", stream=True), request_id="a")
        client.async_stream_infer(
            "fake", inputs("x", stream=True, exclude_input_in_output=False), request_id="b"
        )
        # Waits for what is on its way.
        client.stop_stream()
    found = list(results.queue)
    return {
        "results": [shown(result) for result, error in found if error is None],
        "errors": [error.message() for _, error in found if error is not None],
    }


def cancel_stream() -> Any:
    """A stream that is given up after its first text."""
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(TARGET) as client:
        client.start_stream(lambda result, error: results.put((result, error)), headers=HEADERS)
        client.async_stream_infer("fake", inputs("x", stream=True), request_id="a")
        first, _ = results.get(timeout=30)
        client.stop_stream(cancel_requests=True)
        _, error = results.get(timeout=30)
        return [shown(first)["text_output"], error.status()]


def cancel_call() -> Any:
    """A call that is given up before it is answered."""
    results: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(TARGET) as client:
        call = client.async_infer(
            "fake", inputs("x"), lambda result, error: results.put(error), headers=HEADERS
        )
        print("called", flush=True)
        sys.stdin.readline()
        call.cancel()
        return results.get(timeout=30).status()


async def aio() -> Any:
    """The asynchronous client: calls at the same time, a stream, and one that is given up."""
    async with triton_aio.InferenceServerClient(TARGET) as client:
        both = await asyncio.gather(
            *(client.infer("fake", inputs(text), headers=HEADERS) for text in ("one", "two"))
        )

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(2):
                yield {
                    "model_name": "fake",
                    "inputs": inputs("one two", stream=True, sampling_parameters=SAMPLING),
                    "outputs": [triton_aio.InferRequestedOutput("text_output")],
                    "request_id": str(number),
                    # As Triton's own example has it.
                    "parameters": json.loads(SAMPLING),
                }

        texts: dict[str, list[str]] = {}
        async for result, error in client.stream_infer(requests(), headers=HEADERS):
            assert error is None, error
            texts.setdefault(result.get_response().id, []).extend(shown(result)["text_output"])
        return {"both": [shown(result)["text_output"] for result in both], "streamed": texts}


async def cancel_aio() -> Any:
    """An iterator that is cancelled after its first response."""
    async with triton_aio.InferenceServerClient(TARGET) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "fake", "inputs": inputs("x", stream=True)}
            await asyncio.Event().wait()

        responses = client.stream_infer(requests(), headers=HEADERS)
        async for result, _ in responses:
            responses.cancel()
            return shown(result)["text_output"]
        return None


def picture() -> Any:
    """A prompt with a picture; its file's base64 comes on standard input."""
    with triton.InferenceServerClient(TARGET) as client:
        given = inputs(
            "<start_of_turn>user\n<start_of_image>What is in this picture?<end_of_turn>\n"
            "<start_of_turn>model\n",
            image=[sys.stdin.readline().strip().encode()],
            sampling_parameters=b'{"temperature": 0}',
            exclude_input_in_output=True,
            return_finish_reason=True,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
        )
        return shown(client.infer(sys.argv[4], given, headers=HEADERS))


def descriptors() -> Any:
    """Fields and methods of the protocol as Triton's client has them."""
    files = [service_pb2.DESCRIPTOR, *service_pb2.DESCRIPTOR.dependencies]
    return described(files)


if __name__ == "__main__":
    call = globals()[sys.argv[1]]
    came = asyncio.run(call()) if asyncio.iscoroutinefunction(call) else call()
    print(json.dumps(came))
