"""What prompts and pictures take at Gemma 3's real size: time to the first token, and memory.

    python -m tools.real_geometry.measure FOLDER [--lengths 512 2048] [--pictures 1 2 4] [SERVE FLAGS]...

Starts `octet serve` on a checkpoint that `tools.real_geometry.write` wrote, and asks for one token after
prompts of these lengths, then after these numbers of pictures. No prompt is like another, so that
nothing comes out of a cache. Memory is what the processes have to themselves (USS), after the prompt.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from rich import box
from rich.console import Console
from rich.table import Table

from bench.serving import octet_serve, serving
from octet.bench import machine
from octet.client import AsyncClient
from tools.real_geometry.compare import picture

GIB = 1024**3
WORDS = ("boat", "harbour", "sun", "pier", "letter", "garden", "winter", "road", "window", "stone")


@dataclass(frozen=True, slots=True)
class Measured:
    """One prompt.

    Attributes:
        pictures: in it.
        prompt_tokens: all of them, pictures included.
        first_token_s: seconds from the call to the first token.
        memory_gib: of all the server's processes together, after the answer.
    """

    pictures: int
    prompt_tokens: int
    first_token_s: float
    memory_gib: float


async def ask(client: AsyncClient, server: psutil.Process, text: str, pictures: int) -> Measured:
    """Sends a prompt and waits for its first token."""
    images = [picture(1000, 800, seed=random.randrange(2**31)) for _ in range(pictures)]
    began = time.monotonic()
    answer = await client.chat(text, images=images, max_tokens=1, temperature=0.0)
    seconds = time.monotonic() - began
    memory = sum(each.memory_full_info().uss for each in (server, *server.children(recursive=True)))
    return Measured(pictures, answer.usage.prompt_tokens, seconds, memory / GIB)


async def measure(folder: Path, lengths: list[int], pictures: list[int], flags: list[str]) -> list[Measured]:
    """Starts the server and sends the prompts, the shortest first."""
    draw = random.Random(0)
    results = []
    async with (
        serving(*octet_serve([str(folder), *flags])) as server,
        AsyncClient(server.target) as client,
    ):
        for length in sorted(lengths):
            text = " ".join(draw.choices(WORDS, k=length))
            counted = await client.count_tokens(text)
            # As many words as give about so many tokens.
            text = " ".join(draw.choices(WORDS, k=length * length // counted.prompt_tokens))
            results.append(await ask(client, server.process, text, 0))
            print(results[-1], file=sys.stderr)
        for count in sorted(pictures):
            results.append(await ask(client, server.process, "What is in this?", count))
            print(results[-1], file=sys.stderr)
    return results


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a checkpoint: the folder fp8 or bf16")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048], help="of prompts, in tokens")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 4], help="in a prompt")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments, flags = parser.parse_known_args()
    measured = asyncio.run(measure(arguments.folder, arguments.lengths, arguments.pictures, flags))
    described = machine.describe("cpu")
    console = Console(width=120)
    console.print(machine.summary(described), markup=False, highlight=False)
    table = Table(box=box.MARKDOWN)
    for title in ("pictures", "prompt tokens", "first token s", "memory GiB"):
        table.add_column(title, justify="right")
    for each in measured:
        table.add_row(
            str(each.pictures), str(each.prompt_tokens), f"{each.first_token_s:.2f}", f"{each.memory_gib:.2f}"
        )
    console.print(table)
    if arguments.json_file is not None:
        report = {"machine": described, "flags": flags, "prompts": [asdict(each) for each in measured]}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
