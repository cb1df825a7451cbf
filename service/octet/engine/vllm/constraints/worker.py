"""A process that compiles constraints, and that can be stopped when one takes too much.

Reads constraints as lines of JSON text, and writes what is wrong with each, and its form for llguidance, as
one line of JSON text. It ends when it has taken too much processor time for one, or asked for too much
memory, and when its input ends.
"""

import json
import os
import resource
import signal
import sys

from octet.engine.vllm.constraints.checker import BEGUN, GRAMMAR
from octet.engine.vllm.constraints.ebnf import GrammarError
from octet.engine.vllm.constraints.grammars import begun_with, ready, split_begun
from octet.engine.vllm.constraints.limits import COMPILE_BYTES, COMPILE_CPU_SECONDS
from octet.engine.vllm.constraints.reasons import is_too_costly
from octet.engine.vllm.constraints.walk import Walk

# What a constraint is tried on: ways through it, and how many bytes of each.
_WAYS = 4
_BYTES = 48

_NICE = 10


def main() -> None:
    """Answers until the input ends."""
    os.nice(_NICE)
    Walk('{"grammars": [{"json_schema": {}}]}').sample(0, 1)
    _limit_memory()
    for line in sys.stdin:
        # Its signal ends the process, also in the middle of the library's code.
        signal.setitimer(signal.ITIMER_PROF, COMPILE_CPU_SECONDS)
        answer = _look(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


def _look(grammar: str) -> tuple[str, str]:
    """What is wrong with a constraint, and its form for llguidance."""
    grammar, begun = split_begun(grammar)
    try:
        grammar, other = ready(grammar)
    except GrammarError as error:
        return f"{GRAMMAR}{error}", ""
    return _problem(grammar, other, begun), begun_with(grammar, begun)


def _problem(grammar: str, other: str, begun: str) -> str:
    """What is wrong with a constraint.

    If they are given, no text may begin with `other`, and one has to with `begun`.
    """
    walk = Walk(grammar)
    if other and walk.begins(other):
        return (
            f"{GRAMMAR}has texts that begin with {other} as calls of tools do, and could not be told from "
            "them; leave free_white_space out, write another form, or leave the tools out"
        )
    for seed in range(_WAYS):
        written, ended = walk.sample(seed, _BYTES)
        if walk.error:
            return walk.error
        if not ended and len(written) < _BYTES:
            return "no text satisfies it" if not written else "some texts that begin well cannot be finished"
    if begun and not walk.begins(begun):
        return walk.error if is_too_costly(walk.error) else BEGUN
    return ""


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + COMPILE_BYTES, size + COMPILE_BYTES))


if __name__ == "__main__":
    main()
