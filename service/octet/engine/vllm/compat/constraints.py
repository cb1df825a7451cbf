"""Where vLLM checks, compiles and follows what an answer is held to."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from octet.engine.vllm.constraints.grammars import ALTERNATIVE, MARK
from octet.engine.vllm.constraints.reasons import explain
from octet.engine.vllm.constraints.stock import to_grammar

# What the stop reason of a request begins with whose constraint cannot be followed.
FAILURE = "constraint: "


def checked(*alternatives: str) -> Any:
    """vLLM's parameters for constraints in llguidance's form that need no check; any of them holds."""
    from vllm.sampling_params import StructuredOutputsParams

    params = StructuredOutputsParams(grammar=MARK + ALTERNATIVE.join(alternatives))
    # Takes no effect as an argument.
    params._backend = "guidance"
    return params


def check_with(check: Callable[[str], tuple[str, str]]) -> None:
    """Makes vLLM's front end in this process put constraints to `check`, and not compile them on its loop.

    Those that `checked` made are taken as they are; no request can make one look like these.
    `check` is `octet.engine.vllm.constraints.checker.Checker.check_now`.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    def validate(params: Any, model_config: Any, config: Any, tokenizer: Any) -> None:
        wanted = params.structured_outputs
        if wanted is None or wanted._backend is not None:
            return
        try:
            grammar = to_grammar(wanted)
        except ValueError as error:
            raise VLLMValidationError(str(error)) from error
        problem, grammar = check(grammar)
        if problem:
            raise VLLMValidationError(explain(problem))
        params.structured_outputs = checked(grammar)

    SamplingParams._validate_structured_outputs = validate


def check_those_of(params: Any) -> None:
    """Puts the constraint of vLLM's sampling parameters to the check that `check_with` set.

    Raises:
        VLLMValidationError: when it cannot be served.
    """
    params._validate_structured_outputs(None, None, None)


def follow() -> None:
    """Makes an engine core follow checked constraints within limits, and say why one ends its request.

    Does nothing in processes that run no core.
    """
    core = sys.modules.get("vllm.v1.engine.core")
    if core is None:
        return
    from vllm.v1 import structured_output

    from octet.engine.vllm.constraints.backend import Backend, Following

    manager = structured_output.StructuredOutputManager
    stock = inspect.unwrap(manager.accept_tokens)

    @functools.wraps(stock)
    def accept(self: Any, request: Any, new_token_ids: list[int]) -> bool:
        accepted: bool = stock(self, request, new_token_ids)
        wanted = request.structured_output_request
        grammar = wanted.grammar if wanted is not None else None
        if isinstance(grammar, Following) and grammar.failure:
            request.stop_reason = FAILURE + grammar.failure
            return False
        return accepted

    structured_output.GuidanceBackend = Backend
    manager.accept_tokens = accept
    logging.getLogger("vllm.v1.core.sched.scheduler").addFilter(_is_no_rejection)


def _is_no_rejection(record: logging.LogRecord) -> bool:
    """Whether a line of the log says anything but that a constraint ended its request, which is told."""
    return not str(record.msg).startswith("Unexpected: grammar rejected tokens")
