"""Triton's own client against the real vLLM."""

import asyncio
import base64
import io
import json
import sys

import pytest
from PIL import Image, ImageDraw

from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import VllmEngine
from octet.server.server import Server
from tests.integration.processes import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_picture_where_its_mark_is(engine: VllmEngine) -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=(220, 20, 20))
    file = io.BytesIO()
    image.save(file, "PNG")
    server = Server(ServerConfig(port=0, kserve=True, api_key="secret"))
    await server.start()
    try:
        await server.attach(engine)
        arguments = (f"127.0.0.1:{server.port}", "secret", engine.model.names[0])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.triton_calls", "picture", *arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        given = base64.b64encode(file.getvalue()) + b"\n"
        output, _ = await asyncio.wait_for(process.communicate(given), 120)
    finally:
        await server.stop()
    assert process.returncode == 0
    came = json.loads(output)
    assert came["text_output"] == ["a red circle"]
    assert came["finish_reason"] == ["stop"]
    assert came["num_output_tokens"][0] > 1
    assert came["num_input_tokens"][0] > 20
