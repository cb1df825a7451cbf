"""The real Envoy balances by the load reports of two servers."""

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from octet.v1 import chat_service_pb2_grpc
from tests.e2e import envoy as proxies
from tests.integration.conftest import ask, running_server

WEIGHTED = {
    "policies": [
        {
            "typed_extension_config": {
                "name": "envoy.load_balancing_policies.client_side_weighted_round_robin",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies"
                    ".client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
                    "blackout_period": "0s",
                    "weight_update_period": "0.1s",
                },
            }
        }
    ]
}


async def until_answered(chat: Any) -> None:
    """Returns when the balancer has its first weights, without which it knows no server."""
    async with asyncio.timeout(20):
        while True:
            try:
                await chat(ask())
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_envoy_gives_the_roomier_server_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load((proxies.DEPLOY / "grpc.yaml").read_text())
    (cluster,) = config["static_resources"]["clusters"]
    del cluster["lb_policy"]
    cluster["load_balancing_policy"] = WEIGHTED
    (tmp_path / "weighted.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(proxies, "DEPLOY", tmp_path)
    async with AsyncExitStack() as stack:
        small, large = [await stack.enter_async_context(running_server()) for _ in range(2)]
        for server, sequences in ((small, 1), (large, 10)):
            server.engine.set_max_sequences(sequences)
        address = stack.enter_context(
            proxies.envoy("weighted.yaml", [small.server.port, large.server.port], tmp_path)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        chat = chat_service_pb2_grpc.ChatServiceStub(channel).Chat
        await until_answered(chat)
        latest: deque[bool] = deque(maxlen=200)
        async with asyncio.timeout(60):
            # Envoy may know one of them first.
            while not (small.engine.asked and large.engine.asked):
                await chat(ask())
            # Without reports both would get the same; Envoy follows them with a delay.
            while sum(latest) < 150:
                before = len(large.engine.asked)
                await chat(ask())
                latest.append(len(large.engine.asked) > before)
        # Envoy does not turn away from the small one for good.
        small_before = len(small.engine.asked)
        async with asyncio.timeout(60):
            while len(small.engine.asked) == small_before:
                await chat(ask())
