"""Cases: the same from the same seed, and the same when they were written into a file and read again."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.cases import Call, Case, dump, load
from tests.fuzz.methods import CHAT, GATEWAY, methods
from tests.fuzz.rounds import cases
from tests.fuzz.run import kind_of

quick = settings(
    max_examples=20,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def drawn(number: int) -> list[Case]:
    made: list[Case] = []

    @seed(number)
    @quick
    @given(cases(gateways=True))
    def draw(case: Case) -> None:
        made.append(case)

    draw()
    return made


def test_a_seed_makes_the_same_cases_every_time(tmp_path: Path) -> None:
    made = drawn(7)
    assert made == drawn(7)
    assert made != drawn(8)
    calls = [call for case in made for call in case.calls]
    assert {call.method for call in calls} > {CHAT}
    assert any(call.method.startswith(GATEWAY) for call in calls)
    assert sum(call.request is not None for call in calls) > len(calls) / 2
    path = tmp_path / "case.json"
    for case in made:
        path.write_text(dump(case))
        assert load(path) == case


def test_every_method_of_the_api_is_called() -> None:
    assert {path for path in methods() if path.startswith("/octet.v1.")} == {
        f"/octet.v1.{name}"
        for name in (
            *("ChatService/Chat", "ChatService/StreamChat", "ChatService/CancelChat"),
            *("CompletionService/Complete", "CompletionService/StreamComplete"),
            *("CompletionService/CancelCompletion", "EmbeddingService/Embed", "EmbeddingService/CancelEmbed"),
            *("ModelService/ListModels", "ModelService/GetModel", "ModelService/CountTokens"),
            *("ModelService/Tokenize", "ModelService/Detokenize"),
            *("AdminService/LoadAdapter", "AdminService/UnloadAdapter"),
        )
    }
    assert "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" in methods()
    assert {path.split("/")[1] for path in methods()} >= {
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a/b: ended INTERNAL: id 5", "/a/b: ended INTERNAL: id 77", True),
        ("/a/b: ended INTERNAL: 'x'", "/a/b: ended UNKNOWN: 'x'", False),
        (
            "logged:\n(A pid=1) ERROR 11-28 08:04:43 [s.py:64] Traceback (most recent call last):\n"
            "(A pid=1) ERROR 11-28 08:04:43 [s.py:64] ValueError: 1 is wrong",
            "logged:\nfirst\n(A pid=2) ERROR 11-28 08:05:43 [s.py:64] Traceback (most recent call last):\n"
            "(A pid=2) ERROR 11-28 08:05:43 [s.py:64] ValueError: 2 is wrong",
            True,
        ),
        (
            'logged:\nTraceback (most recent call last):\n  File "a.py", line 1\nValueError: 1 is wrong',
            'logged:\nTraceback (most recent call last):\n  File "b.py", line 1\nTypeError: 1 is wrong',
            False,
        ),
    ],
)
def test_kinds_of_findings(one: str, other: str, same: bool) -> None:
    assert (kind_of(one) == kind_of(other)) == same


def test_metadata_of_bytes(tmp_path: Path) -> None:
    case = Case((Call(CHAT, metadata=(("x-bin", b"\xff\0"), ("x", "y"))),), together=False)
    path = tmp_path / "case.json"
    path.write_text(dump(case))
    assert load(path) == case
