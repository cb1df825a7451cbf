"""What compiling and following one constraint may take.

Figures are those of `python -m bench.constraints`, which compares what ordinary constraints take with it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

COMPILE_CPU_SECONDS = 0.3
"""Processor time for compiling a constraint and for its first steps, on bytes."""

COMPILE_WALL_SECONDS = 10.0
"""The same by the clock, on a machine that is busy with other things."""

COMPILE_BYTES = 384 * 1024**2
"""Memory that compiling may add to the process that does it."""

STEP_CREDIT_SECONDS = 0.2
"""Processor time that an answer's steps may take in advance of `STEP_SECONDS` for each."""

STEP_SECONDS = 0.002
"""Processor time that a step may take on average: a mask over the vocabulary, and taking what was sampled."""


def parser_limits() -> "LLParserLimits":
    """The limits of one matcher: what it may build when it compiles, and in a single step."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=2_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=4_000,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        # Would walk the whole vocabulary for every large expression before the first step.
        precompute_large_lexemes=False,
        verbose_errors=False,
    )
