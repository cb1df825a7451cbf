"""AdminService over a real channel: who may call it, what it refuses, and what follows from it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from octet.client import AsyncClient, Client, OctetRpcError
from octet.config import ServerConfig
from octet.engine.types import Service
from octet.errors import StartupError
from octet.server import reload
from octet.server.server import Server
from octet.v1 import admin_service_pb2 as pb
from octet.v1 import admin_service_pb2_grpc, embedding_service_pb2, model_service_pb2, prompt_pb2
from tests.integration.conftest import Running, Start, ask, complete, details_of, until
from tests.integration.fake_engine import Endless
from tests.integration.logs import logged

ADMIN, CALLER = "adm1n-key", "call3r-key"
NAME = "octet.v1.AdminService"


def as_(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of adapters, and what must not be reached from it."""
    for folder in (
        "root/good",
        "root/other",
        "root/deep/er",
        "root/broken",
        "root/empty",
        "outside",
        "root/half",
    ):
        (tmp_path / folder).mkdir(parents=True)
        if not folder.endswith("empty"):
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                (tmp_path / folder / name).write_text("{}")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "in").symlink_to(tmp_path / "root" / "good")
    (tmp_path / "root" / "half" / "adapter_model.safetensors").unlink()
    (tmp_path / "root" / "borrowed").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "root" / "borrowed" / name).symlink_to(tmp_path / "outside" / name)
    (tmp_path / "root" / "file").write_text("")
    return tmp_path / "root"


@pytest.fixture
def config(root: Path, tmp_path: Path) -> ServerConfig:
    (tmp_path / "admin.keys").write_text(f"ops {ADMIN}\n")
    return ServerConfig(
        port=0, api_key=CALLER, admin_keys_file=str(tmp_path / "admin.keys"), adapter_root=str(root)
    )


@pytest.fixture
async def running(start: Start, config: ServerConfig) -> Running:
    return await start(config=config)


def admin(running: Running) -> admin_service_pb2_grpc.AdminServiceStub:
    return admin_service_pb2_grpc.AdminServiceStub(running.channel)


async def load(running: Running, name: str, path: str, **fields: Any) -> pb.LoadAdapterResponse:
    request = pb.LoadAdapterRequest(name=name, path=path, **fields)
    return await admin(running).LoadAdapter(request, metadata=as_(ADMIN))


async def listed(running: Running) -> list[str]:
    answer = await running.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=as_(CALLER))
    return list(answer.models[0].adapters)


async def test_an_adapter_is_loaded_and_dropped(running: Running) -> None:
    with logged("ops has loaded the adapter sql from good") as said:
        answer = await load(running, "sql", "good")
        await said
    assert (list(answer.adapters), answer.loaded) == (["pirate", "sql"], True)
    assert await listed(running) == ["pirate", "sql"]
    assert running.server.metrics.registry.get_sample_value("octet_adapters") == 2
    await running.chat.Chat(ask(adapter="sql"), metadata=as_(CALLER))
    again = await load(running, "sql", "good/")
    assert (list(again.adapters), again.loaded) == (["pirate", "sql"], False)
    with logged("ops has dropped the adapter sql; 0 requests run on it") as said:
        gone = await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="sql"), metadata=as_(ADMIN))
        await said
    assert (list(gone.adapters), gone.unloaded, gone.running_requests) == (["pirate"], True, 0)
    assert running.server.metrics.registry.get_sample_value("octet_adapters") == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask(adapter="sql"), metadata=as_(CALLER))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    gone = await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="sql"), metadata=as_(ADMIN))
    assert (list(gone.adapters), gone.unloaded) == (["pirate"], False)
    assert await listed(running) == ["pirate"]


@pytest.mark.parametrize("key", [CALLER, "", "wrong", f"{ADMIN}x"])
async def test_others_keys_do_not_open_it(running: Running, key: str) -> None:
    for call in (
        admin(running).LoadAdapter(pb.LoadAdapterRequest(name="a", path="good"), metadata=as_(key)),
        admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="pirate"), metadata=as_(key)),
        admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="pirate")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert await listed(running) == ["pirate"]


async def test_its_keys_open_nothing_else(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask(), metadata=as_(ADMIN))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert running.engine.asked == []


async def test_a_server_without_keys_of_callers_guards_it(start: Start, config: ServerConfig) -> None:
    running = await start(
        config=ServerConfig(port=0, admin_keys_file=config.admin_keys_file, adapter_root=config.adapter_root)
    )
    await running.chat.Chat(ask())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="pirate"))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (await load(running, "sql", "good")).loaded


async def test_keys_follow_their_file(
    running: Running, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    assert config.admin_keys_file is not None
    await asyncio.to_thread(Path(config.admin_keys_file).write_text, "next new-key\n")

    async def opens(key: str) -> bool:
        try:
            await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="none"), metadata=as_(key))
        except grpc.aio.AioRpcError as error:
            return error.code() != grpc.StatusCode.UNAUTHENTICATED
        return True

    async with asyncio.timeout(5):
        while not await opens("new-key"):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.02)
    assert not await opens(ADMIN)


# What is wrong, what is asked, the field, and what the sentence says.
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no name", {"path": "good"}, "name", "is not 1 to 64"),
    ("a long name", {"name": "x" * 65, "path": "good"}, "name", "is not 1 to 64"),
    ("a name with a mark", {"name": "a@1", "path": "good"}, "name", "is not 1 to 64"),
    ("a name that begins with a dot", {"name": ".a", "path": "good"}, "name", "the first a letter"),
    ("no path", {"name": "a"}, "path", "has 0 characters"),
    ("a long path", {"name": "a", "path": "x/" * 600}, "path", "has 1200 characters"),
    ("an absolute path", {"name": "a", "path": "/etc"}, "path", "is no path below"),
    ("a path upwards", {"name": "a", "path": "../outside"}, "path", "is no path below"),
    ("a path up and down", {"name": "a", "path": "good/../../outside"}, "path", "is no path below"),
    ("a path to itself", {"name": "a", "path": "./good"}, "path", "is no path below"),
    ("a path of slashes", {"name": "a", "path": "good//"}, "path", "is no path below"),
    ("the root", {"name": "a", "path": "."}, "path", "is no path below"),
    ("a NUL", {"name": "a", "path": "good\0"}, "path", "cannot be printed"),
    ("a newline", {"name": "a", "path": "good\n"}, "path", "cannot be printed"),
    ("nothing there", {"name": "a", "path": "missing"}, "path", "names no directory"),
    ("a long part", {"name": "a", "path": "x" * 300}, "path", "names no directory"),
    ("a file", {"name": "a", "path": "file"}, "path", "names no directory"),
    ("an empty directory", {"name": "a", "path": "empty"}, "path", "without adapter_config.json"),
    ("half an adapter", {"name": "a", "path": "half"}, "path", "without adapter_model.safetensors"),
    ("a link outside", {"name": "a", "path": "out"}, "path", "leads out"),
    ("files outside", {"name": "a", "path": "borrowed"}, "path", "leads out"),
    ("what the engine does not take", {"name": "a", "path": "broken"}, "path", "cannot be loaded"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "field", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
async def test_what_is_no_adapter(running: Running, fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await admin(running).LoadAdapter(pb.LoadAdapterRequest(**fields), metadata=as_(ADMIN))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == field
    assert problem in violation.description
    assert str(running.engine.folders) == "{}"
    assert await listed(running) == ["pirate"]


async def test_links_within_the_root_are_followed(running: Running, root: Path) -> None:
    assert (await load(running, "a", "in")).loaded
    assert not (await load(running, "a", "good")).loaded
    assert running.engine.folders == {"a": (root / "good").resolve()}


async def test_names_and_room_are_limited(running: Running) -> None:
    await load(running, "a", "good")
    for path, name, code, reason in (
        ("other", "a", grpc.StatusCode.ALREADY_EXISTS, "ADAPTER_NAME_IN_USE"),
        ("deep/er", "b", grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_LIMIT_REACHED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await load(running, name, path)
        assert raised.value.code() == code
        assert details_of(raised.value).info.reason == reason
    assert (await load(running, "a", "other", replace=True)).loaded
    assert await listed(running) == ["pirate", "a"]


async def test_what_was_begun_is_finished(running: Running) -> None:
    running.engine.may_load.clear()
    call = admin(running).LoadAdapter(pb.LoadAdapterRequest(name="a", path="good"), metadata=as_(ADMIN))
    await running.engine.loading.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    running.engine.may_load.set()
    await until(lambda: "a" in running.engine.model.adapters)
    await until(lambda: running.server.metrics.registry.get_sample_value("octet_adapters") == 2)


async def test_running_requests_are_told_of(start: Start, config: ServerConfig) -> None:
    script = Endless()
    running = await start(script, config=config)
    answering = asyncio.ensure_future(running.chat.Chat(ask(adapter="pirate"), metadata=as_(CALLER)))
    await script.started.wait()
    gone = await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="pirate"), metadata=as_(ADMIN))
    assert (gone.unloaded, gone.running_requests) == (True, 1)
    script.release.set()
    assert (await answering).candidates[0].finish_reason


async def test_whatever_a_model_is_for_can_run_on_it(start: Start, config: ServerConfig) -> None:
    running = await start(config=config, services=(Service.COMPLETION, Service.EMBEDDING))
    inputs = [prompt_pb2.Prompt(parts=[prompt_pb2.PromptPart(text="a")])]
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: running.completions.Complete(complete("a", adapter="sql"), metadata=as_(CALLER)),
        lambda: running.embeddings.Embed(
            embedding_service_pb2.EmbedRequest(inputs=inputs, adapter="sql"), metadata=as_(CALLER)
        ),
    ]
    for is_loaded in (False, True, False):
        for call in calls:
            if is_loaded:
                await call()
                continue
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call()
            assert details_of(raised.value).info.reason == "ADAPTER_NOT_FOUND"
        if not is_loaded:
            await load(running, "sql", "good")
        else:
            await admin(running).UnloadAdapter(pb.UnloadAdapterRequest(name="sql"), metadata=as_(ADMIN))
    assert {one.adapter for one in running.engine.asked} == {"sql"}
    assert running.engine.embedded[-1].adapter == "sql"


async def services(running: Running, key: str | None = CALLER) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    call = stub.ServerReflectionInfo(metadata=as_(key) if key else ())
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await call.done_writing()
    answer = await call.read()
    return {service.name for service in answer.list_services_response.service}


async def test_health_and_reflection_list_it_where_it_is(start: Start, running: Running) -> None:
    without = await start()
    assert NAME in await services(running)
    assert NAME not in await services(without, None)
    check = health_pb2.HealthCheckRequest(service=NAME)
    answer = await health_pb2_grpc.HealthStub(running.channel).Check(check)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health_pb2_grpc.HealthStub(without.channel).Check(check)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await admin(without).UnloadAdapter(pb.UnloadAdapterRequest(name="pirate"))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_both_clients(running: Running) -> None:
    async with AsyncClient(running.target, api_key=ADMIN) as client:
        assert await client.load_adapter("a", "good") == ["pirate", "a"]
        assert await client.load_adapter("a", "other", replace=True) == ["pirate", "a"]
        assert await client.unload_adapter("a") == ["pirate"]

    def blocking() -> list[str]:
        with Client(running.target, api_key=ADMIN) as client:
            client.load_adapter("b", "good")
            with pytest.raises(OctetRpcError, match="ALREADY_EXISTS"):
                client.load_adapter("b", "other")
            return client.unload_adapter("b")

    assert await asyncio.to_thread(blocking) == ["pirate"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"admin_keys_file": "keys"}, "--admin-keys-file: goes with --adapter-root"),
        ({"adapter_root": "."}, "--admin-keys-file: goes with --adapter-root"),
        ({"admin_keys_file": "keys", "adapter_root": "/nonexistent"}, "--adapter-root: /nonexistent is no"),
    ],
)
def test_flags_that_make_no_sense(settings: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ServerConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "--admin-keys-file: cannot read"),
        ("", "holds no key"),
        ("ops\n", "the key is missing"),
        ("ops key max_concurrent_requests=2\n", "limits are for callers"),
        ("a key\nb key\n", "this key is already there"),
    ],
)
def test_key_files_that_make_no_sense(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    config = ServerConfig(admin_keys_file=str(tmp_path / "keys"), adapter_root=str(tmp_path))
    with pytest.raises(StartupError, match=problem):
        Server(config)
