"""Writes bench/RESULTS.md, and the plots beside it, out of what was measured.

    python -m bench.results --peers PEERS.JSON --curves CURVES.JSON      # make results measures both first

The files are what `python -m bench.peers --json` and `python -m bench.curves --json` write.
"""

import argparse
import io
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.capacity import report as capacity
from bench.capacity.__main__ import fit_file, front_of
from bench.capacity.law import Check, Law
from bench.capacity.paper import Assumptions
from bench.curves import plot
from bench.curves.__main__ import table as curve_table
from bench.curves.sweeps import ANSWER_TOKENS, PROMPT_TOKENS
from bench.peers import report as peers_report
from octet.bench import machine

PAGE = Path(__file__).parent / "RESULTS.md"
PLOTS = "results"

_NOT_MEASURED = """\
- No GPU was at hand: nothing here says how fast Octet is on one. What is said of GPUs is computed, and
  says so.
- The model is the demo checkpoint, of 4 million parameters: a step takes milliseconds, so what the server
  adds is a larger share of it than it would be with any other model. Shares are the worst case, tokens a
  second mean nothing.
- Load program, server and engine share the cores, over loopback: there is no network, and what the load
  program takes is missing to the others.
- Replicas share the cores, too: with more replicas than cores the curve cannot rise.
- Answers are greedy and as long as asked for; no adapters, log probabilities or constraints but for tool
  calls.
"""


def markdown(table: Table) -> str:
    """A table as lines of Markdown."""
    file = io.StringIO()
    Console(file=file, width=300, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().strip("\n").splitlines() if line.strip())


def page(peers: dict[str, Any], curves: dict[str, Any]) -> str:
    """The whole page."""
    law, checks = fit_file(curves)
    named = {curve["name"]: curve for curve in curves["curves"]}
    sections = [
        "# Results",
        "Written by `make results`, which measures first; `bench/README.md` says how each program measures, "
        "and has the figures of all others. Ratios count: the machine is small.",
        _machine(peers, curves),
        "## Octet beside its peers",
        _peers(peers),
        "## Where a server bends",
        *(_curve(curve) for curve in curves["curves"]),
        _bends(law, named),
        "## A model of it",
        _law(law, checks),
        "## On paper: Gemma 3 12B",
        _paper(peers),
        "## What was not measured",
        _NOT_MEASURED.strip(),
    ]
    return "\n\n".join(sections) + "\n"


def _machine(*files: dict[str, Any]) -> str:
    """Once, where all files come from the same one."""
    lines = []
    for written in files:
        versions = ", ".join(f"{name} {version}" for name, version in written["versions"].items())
        line = f"{machine.summary(written['machine'])}; {versions}."
        if line not in lines:
            lines.append(line)
    return "Machine: " + "\n\n".join(lines)


def _peers(written: dict[str, Any]) -> str:
    rows = {
        level["streams"]: {name: peers_report.Row(**row) for name, row in level["rows"].items()}
        for level in written["levels"]
    }
    turns = len(next(iter(written["levels"][0]["turns"].values())))
    return "\n\n".join(
        [
            f"`make bench-peers`: medians of {turns} turns, answers of {written['answer_tokens']} tokens, "
            f"prompts of {written['prompt_tokens']}; all on cores {written['cores']}. "
            "Times are medians; first text stands beside the first token of the engine alone.",
            markdown(peers_report.table(rows, written["titles"])),
            markdown(peers_report.aims_table(peers_report.aims(rows))),
        ]
    )


def _curve(curve: dict[str, Any]) -> str:
    turns = len(curve["points"][0]["turns"])
    parts = [f"By {curve['axis']}: {curve['fixed']}; medians of {turns} turns.", markdown(curve_table(curve))]
    if len(curve["points"]) > 1:
        parts.append(f"![{curve['axis']}]({PLOTS}/{curve['name']}.png)")
    return "\n\n".join(parts)


def _bends(law: Law, curves: Mapping[str, dict[str, Any]]) -> str:
    """Where the curves bend, by the fitted law, and why."""
    context = PROMPT_TOKENS + ANSWER_TOKENS / 2
    each = law.asked(PROMPT_TOKENS) + ANSWER_TOKENS * (law.sequence + law.cached * context)
    sentences = [
        f"Streams: {ANSWER_TOKENS * law.fixed / each:.0f} streams give half of the "
        f"{ANSWER_TOKENS / each:.0f} tokens a second that ever more of them would: there what a step costs "
        "however many sequences it computes (Python, messages between processes, reading the weights) is as "
        "much as what they cost themselves.",
    ]
    if law.pair > 0:
        sentences.append(
            f"Prompts: first text grows in proportion up to some {law.token / law.pair:.0f} tokens, where "
            "attention, which grows with the square, takes as long as the products."
        )
    else:
        sentences.append(
            "Prompts: first text grows in proportion, or less; attention does not show up to the longest."
        )
    if "pictures" in curves:
        sentences.append(
            f"Pictures: {1e3 * law.picture:.1f} ms each, one after the other: decoding and the vision tower, "
            "on the cores that compute the rest."
        )
    if "replicas" in curves:
        sentences.append(_replicas(curves))
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _replicas(curves: Mapping[str, dict[str, Any]]) -> str:
    speeds = {
        point["x"]: statistics.median(map(plot.tokens_per_s, point["turns"]))
        for point in curves["replicas"]["points"]
    }
    [direct] = curves["direct"]["points"]
    through = speeds[1] / statistics.median(map(plot.tokens_per_s, direct["turns"]))
    gains = ", ".join(f"{count}: {speed / speeds[1]:.2f}x" for count, speed in speeds.items() if count > 1)
    return (
        f"Replicas: one behind Envoy streams {through:.0%} of what it does without; against one, {gains}. "
        "Each computes on a core, and fronts, Envoy and the load program share the same ones."
    )


def _law(law: Law, checks: list[Check]) -> str:
    said = "\n".join(f"- {check.what}: {check.in_words()}." for check in checks)
    return "\n\n".join(
        [
            "The formulas of `docs/capacity.md`, fitted to the points above, and beside them:",
            markdown(capacity.law_table(law)),
            said,
            markdown(capacity.checks_table(checks)),
        ]
    )


def _paper(peers: dict[str, Any]) -> str:
    front = front_of(peers)
    assumed = "\n".join(f"- {sentence}" for sentence in capacity.assumptions_in_words(Assumptions(), front))
    return "\n\n".join(
        [
            "Computed out of data sheets and assumptions, not measured; `docs/capacity.md` has the formulas.",
            assumed,
            markdown(capacity.node_table(front)),
        ]
    )


def main() -> None:
    """Writes the page and the plots."""
    parser = argparse.ArgumentParser(description="Write bench/RESULTS.md.")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=PAGE, help="default: %(default)s")
    arguments = parser.parse_args()
    peers, curves = (
        json.loads(file.read_text(encoding="utf-8")) for file in (arguments.peers, arguments.curves)
    )
    folder = arguments.page.parent / PLOTS
    folder.mkdir(exist_ok=True)
    for curve in curves["curves"]:
        if len(curve["points"]) > 1:
            plot.save(curve, machine.host_summary(curves["machine"]), folder / f"{curve['name']}.png")
    arguments.page.write_text(page(peers, curves), encoding="utf-8")


if __name__ == "__main__":
    main()
