"""What llguidance says about a constraint, as sentences for whoever wrote it."""

import re

from octet.engine.vllm.constraints.checker import GRAMMAR, TOO_COSTLY

TOO_SLOW = (
    "takes too much time for each token of the answer; make it less ambiguous, and its repetitions shorter"
)

# Its limits, and ours.
_COSTLY = re.compile(
    r"too big|too many|too large|too complex|fuel|items; max is|limit \d+|takes more time or memory"
    r"|unable to determine if",
    re.IGNORECASE,
)
_SLOW = re.compile(r"items; max is|Too many items")
_NOTHING = re.compile(r"NoExtension|Unsatisfiable|does not contain|no text satisfies")
_REGEX_ERROR = re.compile(r"error: (.+)")


def is_too_costly(problem: str) -> bool:
    """Whether a constraint is refused for what it would take, and not for what it is."""
    return not problem.startswith(GRAMMAR) and bool(_COSTLY.search(problem))


def explain(problem: str) -> str:
    """One sentence that says what is wrong, and what helps."""
    if problem.startswith(GRAMMAR):
        return problem.removeprefix(GRAMMAR)
    if _SLOW.search(problem):
        return TOO_SLOW
    if is_too_costly(problem):
        return TOO_COSTLY
    line = " ".join(problem.strip().splitlines()[0].split())
    if _NOTHING.search(problem):
        detail = line.partition("Unsatisfiable schema: ")[2]
        return "nothing satisfies it" + (f": {detail}" if detail else "")
    if "Failed to generate regex for integer range" in problem:
        return "has bounds of an integer that none lies between, or beyond 64 bits; write others"
    if match := _REGEX_ERROR.search(problem):
        return f"has a regular expression that cannot be enforced: {match[1]}"
    if "lookarounds not supported" in problem:
        return (
            "has a regular expression that cannot be enforced: ^ and $ stand at its beginning and end only, "
            r"and \b nowhere"
        )
    return f"cannot be enforced: {line}"


def regex_problem(regex: str) -> str:
    """What is wrong with a regular expression that llguidance would read as another one; or nothing."""
    if "\x00" in regex:
        return "has a NUL character, which no answer holds; leave it out"
    backslashes = len(regex) - len(regex.rstrip("\\"))
    if backslashes % 2:
        return r"ends with a backslash; write \\ for a backslash itself"
    return ""
