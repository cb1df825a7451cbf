"""Stop strings that begin in what an answer goes on with."""

import functools
from typing import Any

_SAID = "octet_said"


def look_behind(params: Any, said: str) -> None:
    """Has vLLM's sampling parameters for an answer to `said` find stop strings that begin there, too."""
    longest = max(map(len, params.stop), default=0)
    if tail := said[-(longest - 1) :] if longest > 1 else "":
        params.extra_args = {**(params.extra_args or {}), _SAID: tail}
        _see_what_was_said()


@functools.cache
def _see_what_was_said() -> None:
    """Makes vLLM's front end in this process show what `look_behind` left to what looks for stop strings."""
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    stock = IncrementalDetokenizer.from_new_request

    def from_new_request(tokenizer: Any, request: Any) -> Any:
        detokenizer = stock(tokenizer, request)
        if said := (request.sampling_params.extra_args or {}).get(_SAID):
            # It is there, and nothing of it will be given again.
            detokenizer.output_text = said
            detokenizer._last_output_text_offset = len(said)
        return detokenizer

    IncrementalDetokenizer.from_new_request = staticmethod(from_new_request)
