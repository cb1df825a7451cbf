"""Fits the formulas to measured curves, and computes nodes and fleets for Gemma 3 12B.

    python -m bench.capacity CURVES.JSON [--peers PEERS.JSON]

The files are what `python -m bench.curves --json` and `python -m bench.peers --json` write.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.capacity import report
from bench.capacity.law import Check, Law, fit
from bench.capacity.paper import Assumptions, Front
from bench.curves.sweeps import ANSWER_TOKENS, PROMPT_TOKENS

FRONT_US = 54.0
"""Of the serving process for a streamed token at 32 streams, where no file says it: Zen 3, 2 cores."""
_FRONT_STREAMS = 32


def fit_file(written: dict[str, Any]) -> tuple[Law, list[Check]]:
    """The law of what `bench.curves` wrote.

    Raises:
        KeyError: the curves of streams or prompts are missing.
    """
    return fit({curve["name"]: curve for curve in written["curves"]}, PROMPT_TOKENS, ANSWER_TOKENS)


def front_of(peers: dict[str, Any] | None) -> Front:
    """What `bench.peers` has measured of Octet's front."""
    for level in (peers or {"levels": []})["levels"]:
        if level["streams"] == _FRONT_STREAMS and "octet" in level["rows"]:
            return Front(1e-6 * level["rows"]["octet"]["front"])
    return Front(1e-6 * FRONT_US)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Compute what nodes and fleets can answer.")
    parser.add_argument("curves", type=Path)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    peers = json.loads(arguments.peers.read_text(encoding="utf-8")) if arguments.peers else None
    front = front_of(peers)
    console = Console(width=200, markup=False, highlight=False)
    law, checks = fit_file(json.loads(arguments.curves.read_text(encoding="utf-8")))
    console.print(report.law_table(law))
    console.print(report.checks_table(checks))
    console.print("Computed, not measured; assumed:")
    for sentence in report.assumptions_in_words(Assumptions(), front):
        console.print(f"- {sentence}", soft_wrap=True)
    console.print(report.node_table(front))


if __name__ == "__main__":
    main()
