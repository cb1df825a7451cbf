"""The metrics and labels that PromQL names, as Prometheus' own grammar reads it."""

from collections.abc import Iterator
from typing import Any

import promql_parser


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a query reads, with the labels that it is selected by.

    Raises:
        ValueError: when the query is not PromQL.
    """
    yield from _selectors(promql_parser.parse(query))


def _selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
        return
    if isinstance(node, promql_parser.MatrixSelector):
        yield from _selectors(node.vector_selector)
        return
    for child in (getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param")):
        if isinstance(child, promql_parser.Expr):
            yield from _selectors(child)
    for argument in getattr(node, "args", ()):
        yield from _selectors(argument)
