"""What constraints cost with llguidance, as Octet limits it, and with xgrammar.

`python -m bench.constraints` prints for each of a list of ordinary and of hostile constraints what becomes of
it (held: the sampled answer satisfies it, as far as it came; broken: it does not; refused; ended: it ran into
a limit while it was followed), the time that it takes to compile, the longest step, a mask and taking a token
together, and the memory. Each one runs in a process of its own with limited memory and time, for some take
all of both.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

CASES = Path(__file__).parent.parent / "tests/unit/engine/constraints/cases.json"
_BYTES = 4 * 1024**3
_SECONDS = 60
_STEPS = 200

# Takes a token; says whether it could be taken.
Step = Callable[[int], bool]


def main() -> None:
    """Prints a table, one line a constraint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="service/octet/demo", help="directory of a fast tokenizer")
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = {name: (kind, build(spec)) for name, (kind, spec) in json.loads(CASES.read_text()).items()}
    if arguments.one:
        library, name = arguments.one
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        print(json.dumps(run(library, *cases[name], arguments.tokenizer)))
        return
    print(f"{'constraint':<28}{'library':<12}{'outcome':<10}{'compile ms':>12}{'step ms':>10}{'MiB':>7}")
    for name in cases:
        for library in ("llguidance", "xgrammar"):
            outcome, compiled, step, memory = _apart(library, name, arguments.tokenizer)
            print(
                f"{name:<28}{library:<12}{outcome:<10}{compiled:>12.1f}{step:>10.1f}{memory:>7.0f}",
                flush=True,
            )


def build(spec: Any) -> Any:
    """A constraint of the file, where {"repeat": N, "of": PART} is a text or an object's property N times."""
    if isinstance(spec, dict) and spec.keys() == {"repeat", "of"}:
        if isinstance(spec["of"], str):
            return spec["of"] * spec["repeat"]
        of = {f"p{i}": spec["of"] for i in range(spec["repeat"])}
        return {"type": "object", "properties": of, "required": list(of), "additionalProperties": False}
    return spec


def _apart(library: str, name: str, tokenizer: str) -> tuple[str, float, float, float]:
    command = [sys.executable, "-m", "bench.constraints", "--tokenizer", tokenizer, "--one", library, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"> {_SECONDS} s", float("nan"), float("nan"), float("nan")
    except subprocess.CalledProcessError:
        return "died", float("nan"), float("nan"), float("nan")
    outcome, compiled, step, memory = json.loads(done.stdout.splitlines()[-1])
    return outcome, compiled, step, memory


def run(library: str, kind: str, spec: Any, path: str) -> tuple[str, float, float, float]:
    """What becomes of one constraint, milliseconds to compile and for the longest step, and MiB more."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    compile_ = (_llguidance if library == "llguidance" else _xgrammar)(tokenizer, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        allowed, take = compile_(spec)
    except (RuntimeError, ValueError):
        return "refused", (time.perf_counter() - start) * 1e3, 0.0, _more(before)
    compiled = (time.perf_counter() - start) * 1e3
    rng, longest, written, ended = random.Random(0), 0.0, [], False
    for _ in range(_STEPS):
        start = time.perf_counter()
        tokens = allowed()
        masked = time.perf_counter() - start
        if not tokens:
            return "ended", compiled, longest * 1e3, _more(before)
        token = rng.choice(tokens)
        if token == tokenizer.eos_token_id:
            ended = True
            break
        start = time.perf_counter()
        taken = take(token)
        longest = max(longest, masked + time.perf_counter() - start)
        if not taken:
            return "ended", compiled, longest * 1e3, _more(before)
        written.append(token)
    outcome = "held"
    if kind == "schema" and ended:
        text = tokenizer.decode(written)
        try:
            valid = Draft202012Validator(spec, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(
                json.loads(text)
            )
        except ValueError:
            valid = False
        outcome = "held" if valid else "broken"
    return outcome, compiled, longest * 1e3, _more(before)


def _more(before: int) -> float:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _set_bits(mask: Any) -> list[int]:
    import numpy

    return [int(i) for i in numpy.flatnonzero(numpy.unpackbits(mask.view(numpy.uint8), bitorder="little"))]


def _llguidance(tokenizer: Any, kind: str) -> Callable[[Any], tuple[Callable[[], list[int]], Step]]:
    import llguidance
    import llguidance.hf
    import llguidance.numpy

    from octet.engine.vllm.constraints import grammars
    from octet.engine.vllm.constraints.ebnf import GrammarError
    from octet.engine.vllm.constraints.limits import parser_limits
    from octet.engine.vllm.constraints.schema import NotEnforceableError, to_enforceable

    own = llguidance.hf.from_tokenizer(tokenizer)
    mask = llguidance.numpy.allocate_token_bitmask(1, own.vocab_size)

    def compile_(spec: Any) -> tuple[Callable[[], list[int]], Step]:
        try:
            if kind == "schema":
                schema = to_enforceable(spec).schema
                grammar = grammars.of_schema(schema, separators=(",", ":"), white_space=False)
            else:
                make = grammars.of_regex if kind == "regex" else grammars.of_ebnf
                grammar, _ = grammars.ready(make(spec))
        except (GrammarError, NotEnforceableError) as error:
            raise ValueError(str(error)) from error
        matcher = llguidance.LLMatcher(own, grammar, log_level=0, limits=parser_limits())
        if matcher.is_error():
            raise ValueError(matcher.get_error())

        def allowed() -> list[int]:
            llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
            return [] if matcher.is_error() else _set_bits(mask[0])

        return allowed, lambda token: bool(matcher.consume_token(token))

    return compile_


def _xgrammar(tokenizer: Any, kind: str) -> Callable[[Any], tuple[Callable[[], list[int]], Step]]:
    import xgrammar

    size = len(tokenizer)
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size))
    mask = xgrammar.allocate_token_bitmask(1, size)

    def compile_(spec: Any) -> tuple[Callable[[], list[int]], Step]:
        if kind == "schema":
            compiled = compiler.compile_json_schema(json.dumps(spec), any_whitespace=False)
        elif kind == "regex":
            compiled = compiler.compile_regex(spec)
        else:
            compiled = compiler.compile_grammar(spec)
        matcher = xgrammar.GrammarMatcher(compiled)

        def allowed() -> list[int]:
            mask.fill_(-1)
            matcher.fill_next_token_bitmask(mask)
            return [token for token in _set_bits(mask.numpy()[0]) if token < size]

        return allowed, lambda token: bool(matcher.accept_token(token))

    return compile_


if __name__ == "__main__":
    main()
