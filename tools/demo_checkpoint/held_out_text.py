"""Writes conversations that training never drew as a text, to measure a checkpoint's predictions with.

    python -m tools.demo_checkpoint.held_out_text FILE [--seed N] [--count N]

Small talk and tool calls with held-out names and values, no pictures, as the chat template renders them;
parted by lines of "%%". The same seed gives the same text.
"""

import argparse
import random
from pathlib import Path

from tools.demo_checkpoint.chat import chat
from tools.demo_checkpoint.dialogues import tool_dialogue
from tools.demo_checkpoint.names import NameSource
from tools.demo_checkpoint.tokenizer import render

SEPARATOR = "%%"


def conversations(seed: int, count: int) -> list[str]:
    """`count` whole conversations, as prompts with their answers."""
    rng = random.Random(f"text {seed}")
    source = NameSource(rng, held_out=True)
    return [render(tool_dialogue(source) if index % 2 else chat(source)) for index in range(count)]


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    texts = [
        text if text.endswith("\n") else text + "\n"
        for text in conversations(arguments.seed, arguments.count)
    ]
    arguments.file.write_text(f"{SEPARATOR}\n".join(texts))


if __name__ == "__main__":
    main()
