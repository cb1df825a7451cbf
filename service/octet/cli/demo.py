"""`octet demo`: serve the checkpoint that ships with Octet, and talk to it as a user would."""

import asyncio
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

_TOOLS = [
    {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]

_PROGRAM = """\
import json
from octet.client import Client, tool_result, user

def get_weather(city):
    return {"condition": "sunny", "temperature": 21}

tools = json.load(open("tools.json"))
with Client("@TARGET@") as client:
    turns = [user("What is the weather in Oslo?")]
    answer = client.chat(turns, tools=tools, temperature=0.0)
    turns.append(answer)
    for call in answer.tool_calls:
        turns.append(tool_result(call.id, get_weather(**call.arguments)))
    for text in client.stream(turns, tools=tools, temperature=0.0):
        print(text, end="", flush=True)
    print()
"""

_NEXT = """
Now serve a model of your own (a hub id or a directory; vLLM's flags work):
  octet serve BCCard/gemma-3-12b-it-FP8-Dynamic --max-model-len 8192
and ask it from the shell, or from your own code:
  octet chat --image photo.jpg "What is in the picture?"
  python -c 'from octet.client import Client; print(Client().chat("Hello!").text)'
`octet serve --help` lists the flags; README.md has more."""


@click.command()
@click.option("--port", type=int, help="Port for the server.  [default: a free one]")
def demo(port: int | None) -> None:
    """Serve the checkpoint that ships with Octet, ask it three things, and stop it again."""
    # Whatever ends the demo ends its server, which is done on the way out of this function.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="octet-demo-"))
    log = folder / "server.log"
    port = port or _free_port()
    try:
        with _server(port, log) as server:
            _wait_until_serving(server, port, log)
            _show(folder, f"127.0.0.1:{port}")
    except _DemoFailedError as error:
        click.echo(f"octet: error: {error}; the server's log is {log}", err=True)
        sys.exit(1)
    shutil.rmtree(folder)
    click.echo(_NEXT)


class _DemoFailedError(Exception):
    """Something did not work; the message says what."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _server(port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`octet serve` as a process, stopped at the end."""
    click.secho(f"$ octet serve --port {port}", bold=True)
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "octet", "serve", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_serving(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    started = time.monotonic()
    if not asyncio.run(_serving(server, port)):
        lines = log.read_text(errors="replace").splitlines()
        last = lines[-1] if lines else "it said nothing"
        raise _DemoFailedError(f"the server did not start ({last.removeprefix('octet: error: ')})")
    click.echo(f"Serving after {time.monotonic() - started:.0f} s.")


async def _serving(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Shows progress until grpc.health.v1 says SERVING, or, with False, the server has ended."""
    watching = asyncio.create_task(_watch_health(port))
    click.echo("Loading the model ", nl=False)
    while not watching.done() and server.poll() is None:
        await asyncio.wait({watching}, timeout=1)
        click.echo(".", nl=False)
    click.echo()
    if watching.done():
        await watching
        return True
    watching.cancel()
    return False


async def _watch_health(port: int) -> None:
    """Returns when grpc.health.v1 says SERVING."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        async for response in health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return


def _show(folder: Path, target: str) -> None:
    """Runs the client for text, a picture and a tool."""
    _draw_three_green_squares(folder / "picture.png")
    (folder / "tools.json").write_text(json.dumps(_TOOLS))
    (folder / "weather.py").write_text(_PROGRAM.replace("@TARGET@", target))

    chat = ["chat", "--target", target, "--temperature", "0"]
    _run(folder, "A question:", [*chat, "What is the capital of France?"])
    _run(
        folder,
        "A question about a picture (three green squares, just drawn):",
        [*chat, "--image", "picture.png", "What is in the picture?"],
    )
    _run(
        folder,
        "A tool on offer; the model asks for a call:",
        [*chat, "--tools", "tools.json", "What is the weather in Oslo?"],
    )
    click.echo("\nThe same from Python, which runs the tool and returns its result:")
    click.secho(_PROGRAM.replace("@TARGET@", target), fg="cyan")
    _run_python(folder, ["weather.py"], shown="python weather.py")


def _draw_three_green_squares(path: Path) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for left, top in ((24, 40), (150, 30), (90, 150)):
        draw.rectangle((left, top, left + 70, top + 70), fill=(0, 160, 0))
    image.save(path)


def _run(folder: Path, title: str, arguments: list[str]) -> None:
    click.echo(f"\n{title}")
    _run_python(folder, ["-m", "octet", *arguments], shown=shlex.join(["octet", *arguments]))


def _run_python(folder: Path, arguments: list[str], *, shown: str) -> None:
    """Runs a command whose output goes straight to this one's, as it streams."""
    click.secho(f"$ {shown}", bold=True)
    sys.stdout.flush()
    if subprocess.run([sys.executable, *arguments], cwd=folder, check=False).returncode != 0:
        raise _DemoFailedError(f"`{shown}` failed")
