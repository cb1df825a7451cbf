"""The serving process: signals, exit codes, and what it says."""

import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.client import Client, OctetRpcError
from tests.idle import idle_seconds
from tests.integration.processes import server_process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_server(number: signal.Signals) -> None:
    with server_process("echo") as server, Client(server.target) as client:
        assert client.chat("hello there").text == "hello there "
        server.signal(number)
        assert server.wait() == 0
    assert "Traceback" not in "".join(server.log)


def test_sigterm_drains() -> None:
    with server_process("endless") as server, Client(server.target) as client:
        stream = client.stream("hello")
        assert next(iter(stream)) == "first "
        server.signal(signal.SIGTERM)
        server.read_log_until("draining")
        with pytest.raises(OctetRpcError) as raised:
            client.chat("too late")
        assert raised.value.code == grpc.StatusCode.UNAVAILABLE
        server.signal(signal.SIGUSR2)
        assert stream.answer().text == "first last"
        assert server.wait() == 0


def test_sigterm_leaves_balancers_time_to_notice() -> None:
    with server_process("echo", "grace_seconds=30") as server, Client(server.target) as client:
        with grpc.insecure_channel(server.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="octet.v1.ChatService"))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            server.signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert client.chat("not too late").text == "not too late "
            watch.cancel()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "draining" not in "".join(server.log)


def test_draining_follows_the_grace() -> None:
    with server_process("endless", "grace_seconds=0.2") as server, Client(server.target) as client:
        stream = client.stream("hello")
        assert next(iter(stream)) == "first "
        server.signal(signal.SIGTERM)
        server.read_log_until("NOT_SERVING, still taking calls")
        server.read_log_until("draining")
        server.signal(signal.SIGUSR2)
        assert stream.answer().text == "first last"
        assert server.wait() == 0


def test_ctrl_c_has_no_grace() -> None:
    with server_process("echo", "grace_seconds=30") as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_engine_death_ends_a_server_that_drains() -> None:
    with server_process("endless") as server, Client(server.target) as client:
        stream = client.stream("hello")
        assert next(iter(stream)) == "first "
        server.signal(signal.SIGTERM)
        server.read_log_until("draining")
        server.signal(signal.SIGUSR1)
        with pytest.raises(OctetRpcError) as raised:
            stream.answer()
        assert raised.value.reason == "ENGINE_DEAD"
        assert server.wait() == 1
    assert server.log[-1] == "octet: error: the engine has died\n"


def test_second_signal_stops_at_once() -> None:
    with server_process("endless") as server, Client(server.target) as client:
        stream = client.stream("hello")
        assert next(iter(stream)) == "first "
        server.signal(signal.SIGTERM)
        server.read_log_until("draining")
        started = idle_seconds()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert idle_seconds() - started < 5  # against 30 s of drain
        with pytest.raises(OctetRpcError) as raised:
            stream.answer()
        assert raised.value.code == grpc.StatusCode.UNAVAILABLE


def test_second_signal_ends_an_engine_that_does_not_end() -> None:
    with server_process("stuck") as server:
        server.signal(signal.SIGTERM)
        server.read_log_until("closing")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "closed\n" in server.log


def test_engine_death_ends_the_process() -> None:
    with server_process("endless") as server, Client(server.target) as client:
        stream = client.stream("hello")
        assert next(iter(stream)) == "first "
        died = idle_seconds()
        server.signal(signal.SIGUSR1)
        with pytest.raises(OctetRpcError) as raised:
            stream.answer()
        assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD")
        assert server.wait() == 1
        assert idle_seconds() - died < 5
    assert server.log[-1] == "octet: error: the engine has died\n"
    assert "Traceback" not in "".join(server.log)


def test_signal_while_loading_ends_the_engines_processes() -> None:
    with server_process("loading", serving=False) as server:
        child = int(server.read_log_until(r"loading in (\d+)")[1])
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_signal_while_a_thread_imports_waits_for_nothing() -> None:
    with server_process("importing", serving=False) as server:
        server.read_log_until("importing")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log[-1].endswith("octet: stopped\n")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ('api_keys_file="nowhere"',),
            "--api-keys-file: cannot read nowhere: No such file or directory",
        ),
        (
            ('api_keys="search"',),
            "OCTET_API_KEYS:1: the key is missing behind the name",
        ),
        (
            ('tls_certificate="nowhere"', 'tls_key="nowhere"'),
            "cannot read nowhere: No such file or directory",
        ),
        (
            ('uds="/nowhere/socket"',),
            "--uds: cannot listen on /nowhere/socket: No such file or directory",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(settings: tuple[str, ...], line: str) -> None:
    with server_process("echo", *settings, serving=False) as server:
        assert server.wait() == 1
    assert server.log == [f"octet: error: {line}\n"]


def test_failed_start_is_one_line() -> None:
    with server_process("no-such-model", serving=False) as server:
        assert server.wait() == 1
    assert server.log == ["octet: error: no such model: nowhere\n"]


def test_log_lines_carry_the_request_id_and_not_the_key() -> None:
    with server_process("echo", "s3cret") as server, Client(server.target, api_key="s3cret") as client:
        client.chat("hello", request_id="r-77")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    log = "".join(server.log)
    assert " octet [r-77]: /octet.v1.ChatService/Chat OK " in log
    assert "s3cret" not in log
