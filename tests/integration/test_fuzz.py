"""What fuzzing has found stays mended, and fuzzing finds faults: both with servers as processes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import strategies as st

from octet.v1 import chat_service_pb2
from tests.fuzz.cases import Call, Case, dump, load
from tests.fuzz.methods import CHAT, STREAM_CHAT
from tests.fuzz.run import MEMORY_BYTES, Hunt
from tests.fuzz.server import ServerProcess
from tests.integration.conftest import ask

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").glob("*.json"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ServerProcess]:
    server = ServerProcess("scripted")
    await server.start()
    yield server
    assert await server.stop() == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
async def test_the_corpus(server: ServerProcess, path: Path) -> None:
    assert await server.findings(load(path)) == []


def asking(said: str, *more: str) -> Case:
    return Case(tuple(Call(CHAT, (ask(text).SerializeToString(),)) for text in (said, *more)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faulty() -> AsyncIterator[ServerProcess]:
    server = ServerProcess("scripted", faults=True, patience=3)
    await server.start()
    yield server
    server.kill()


@pytest.mark.asyncio(loop_scope="module")
class TestFaultsAreFound:
    async def test_none_where_there_are_none(self, faulty: ServerProcess) -> None:
        assert await faulty.findings(asking("hello")) == []

    async def test_errors_inside_the_server(self, faulty: ServerProcess) -> None:
        status, logged = await faulty.findings(asking("raise"))
        assert status.startswith(f"{CHAT}: ended INTERNAL")
        assert "RuntimeError: a fault that was asked for" in logged

    async def test_an_event_loop_that_stands_still(self, faulty: ServerProcess) -> None:
        # On a busy machine the calls may take longer than anybody waits.
        *_, logged = await faulty.findings(asking("stall", "hello"))
        assert "fuzz: STALL" in logged
        assert "_fail" in logged

    async def test_memory_that_is_not_given_back(self, faulty: ServerProcess) -> None:
        before = faulty.memory()
        for _ in range(2):
            assert await faulty.findings(asking("leak")) == []
        assert faulty.memory() - before > MEMORY_BYTES

    async def test_slots_that_are_not_given_back(
        self, faulty: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.fuzz.server.SETTLE_SECONDS", 0.2)
        [status, *_, taken] = await faulty.findings(asking("hang"))
        assert status == f"{CHAT}: did not end"
        assert '"unfinished": 1' in taken
        assert '"octet.v1.ChatService/Chat": 1' in taken

    async def test_a_server_that_ends(self, faulty: ServerProcess) -> None:
        status, ended = await faulty.findings(asking("exit"))
        assert "UNAVAILABLE" in status
        assert "the server ended with status 3" in ended


def test_what_is_found_is_made_small_and_can_be_played_again(tmp_path: Path) -> None:
    said = st.sampled_from(["hello", "good morning", "raise"])
    calls = st.builds(
        lambda text, method: Call(method, (ask(text, request_id="").SerializeToString(),)),
        said,
        st.sampled_from([CHAT, STREAM_CHAT]),
    )
    cases = st.lists(calls, min_size=1, max_size=4).map(lambda made: Case(tuple(made)))
    written: list[Path] = []

    def write(case: Case, about: str) -> Path:
        written.append(tmp_path / f"{len(written)}.json")
        written[-1].write_text(dump(Case(case.calls, about)))
        return written[-1]

    hunt = Hunt("scripted", 0, faults=True, cases=cases)
    try:
        hunt.run(3, found=write)
        assert len(hunt.findings) == len(written) > 0
        smallest = load(written[0])
        assert "ended INTERNAL" in smallest.about
        [call] = smallest.calls
        assert call.request.messages[0].parts[0].text == "raise"
        hunt.findings.clear()
        hunt.replay(written[0])
        assert any("ended INTERNAL" in finding for finding in hunt.findings)
    finally:
        hunt.close()


def test_a_file_may_say_large_things_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    entry = {
        "method": CHAT,
        "request": {
            "messages": [
                {
                    "role": "ROLE_USER",
                    "parts": {"repeat": [{"text": {"repeat": "ab", "times": 3}}], "times": 2},
                }
            ]
        },
    }
    path.write_text(
        json.dumps(
            {"calls": [entry, {"method": CHAT, "messages": [["AAAA", {"repeat": ["AQAB"], "times": 2}]]}]}
        )
    )
    first, second = load(path).calls
    request = chat_service_pb2.ChatRequest.FromString(first.messages[0])
    assert [part.text for part in request.messages[0].parts] == ["ababab"] * 2
    assert second.messages == (b"\0\0\0" + b"\1\0\1" * 2,)
