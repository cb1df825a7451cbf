"""curl, as those use it who speak JSON over HTTP."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARTIAL_FILE = 18
"""What curl says of a body that does not end."""


def chat(said: str, **sampling: Any) -> dict[str, Any]:
    """A request of one user turn."""
    turn = {"role": "ROLE_USER", "parts": [{"text": said}]}
    return {"messages": [turn], **({"sampling": sampling} if sampling else {})}


@contextmanager
def asking(url: str, *arguments: str, body: Any = None) -> Iterator["subprocess.Popen[str]"]:
    command = [
        "curl",
        "--silent",
        "--no-buffer",
        "--header",
        "content-type: application/json",
        *arguments,
        url,
    ]
    if body is not None:
        command += ["--data-binary", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        try:
            yield curl
        finally:
            curl.kill()


def curl(url: str, *arguments: str, body: Any = None) -> tuple[int, dict[str, str], str]:
    """The status, the headers and the body that curl gets."""
    with asking(url, "--include", *arguments, body=body) as process:
        output, _ = process.communicate(timeout=60)
    head, _, text = output.partition("\n\n")
    status, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, text


def objects(text: str) -> list[Any]:
    """The objects of a streamed body: one a line."""
    return [json.loads(line) for line in text.splitlines() if line]


def is_whole(chunks: list[Any]) -> bool:
    """The sign that docs/http.md gives, for a stream of one candidate."""
    finished = any(delta.get("finish_reason") for chunk in chunks for delta in chunk.get("deltas", []))
    return finished and "usage" in chunks[-1]
