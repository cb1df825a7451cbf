"""What the formulas come to, as tables."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from bench.capacity.law import Check, Law
from bench.capacity.paper import (
    GPUS,
    WORKLOADS,
    Assumptions,
    Front,
    Geometry,
    Gpu,
    Node,
    Replica,
    Workload,
    node,
    nodes_for,
)

OBJECTIVE_S = 0.05
"""Most seconds between the tokens of an answer."""
DEMAND = 100.0
"""Answers a second of the fleet."""
GPUS_OF_NODE = 4


def law_table(law: Law) -> Table:
    """The fitted costs."""
    table = Table(box=box.MARKDOWN)
    table.add_column("of each")
    table.add_column("takes", justify="right")
    for name, seconds in (
        ("request", law.request),
        ("token of a prompt", law.token),
        ("pair of tokens of a prompt", law.pair),
        ("picture", law.picture),
        ("step", law.fixed),
        ("sequence in a step", law.sequence),
        ("token so far of a sequence in a step", law.cached),
    ):
        table.add_row(name, f"{1e6 * seconds:.3g} us")
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """Every point beside what the formula says of it."""
    table = Table(box=box.MARKDOWN)
    table.add_column("formula")
    for title in ("at", "measured", "computed", "off by"):
        table.add_column(title, justify="right")
    for check in checks:
        for (x, measured, computed), error in zip(check.points, check.errors, strict=True):
            table.add_row(check.what, f"{x:.0f}", f"{measured:.4g}", f"{computed:.4g}", f"{error:.0%}")
    return table


def layouts() -> list[tuple[Gpu, int]]:
    """One replica over all GPUs of a node, and one on each."""
    return [(gpu, ranks) for gpu in GPUS for ranks in (GPUS_OF_NODE, 1)]


def node_table(front: Front, assumed: Assumptions | None = None) -> Table:
    """A node of four GPUs, and the fleet, for every workload and layout."""
    table = Table(box=box.MARKDOWN)
    table.add_column("workload")
    table.add_column("four of")
    for title in (
        "replicas",
        "sequences on each",
        "ms a token",
        "tokens/s of the GPUs",
        "of the fronts",
        "answers/s",
        f"nodes for {DEMAND:.0f} answers/s",
    ):
        table.add_column(title, justify="right")
    table.add_column("full first")
    for load in WORKLOADS:
        for gpu, ranks in layouts():
            replica = Replica(Geometry(), gpu, ranks, assumed or Assumptions())
            found = node(replica, load, front, OBJECTIVE_S, GPUS_OF_NODE)
            name = f"{gpu.name}, {'one each' if ranks == 1 else f'{ranks} ranks'}"
            table.add_row(load.name, name, *_cells(found, load))
    return table


def _cells(found: Node | None, load: Workload) -> list[str]:
    if found is None:
        return ["", "", "", "", "", "", "", "not within the objective"]
    return [
        str(found.replicas),
        str(found.sequences),
        f"{1e3 * found.token:.1f}",
        f"{found.engine * load.answer:.0f}",
        f"{found.front * load.answer:.0f}",
        f"{found.answers:.1f}",
        str(nodes_for(DEMAND, found)),
        found.first,
    ]


def assumptions_in_words(assumed: Assumptions, front: Front) -> list[str]:
    """What the tables of GPUs rest on, as sentences."""
    asked = [
        f"{load.name}: {load.prompt} tokens{f' and {load.pictures} picture' * (load.pictures > 0)}, "
        f"answers of {load.answer}"
        for load in WORKLOADS
    ]
    return [
        f"{assumed.memory_share:.0%} of a data sheet's bandwidth and {assumed.flops_share:.0%} of its "
        "operations are reached.",
        f"The host takes {1e3 * assumed.host:g} ms a step that nothing hides.",
        f"vLLM takes {assumed.usable:.0%} of a GPU's memory, {assumed.reserve / 1e9:g} GB of that for "
        f"activations; at most {assumed.most_sequences} sequences run.",
        f"Tokens of an answer are to come within {1e3 * OBJECTIVE_S:g} ms of one another.",
        f"A front takes {1e6 * front.token:.1f} us for a streamed token, each in a message of its own.",
        "Of the fleet, each node is used by 70 %.",
        f"Workloads: {'; '.join(asked)}.",
    ]
