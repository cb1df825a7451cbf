from octet.server.server import Server
from tests.integration.conftest import Start


def serving(server: Server) -> float | None:
    return server.metrics.registry.get_sample_value("octet_serving")


async def test_serving_follows_health(start: Start) -> None:
    running = await start(attach=False)
    assert serving(running.server) == 0
    await running.server.attach(running.engine)
    assert serving(running.server) == 1
    await running.server.drain()
    assert serving(running.server) == 0
