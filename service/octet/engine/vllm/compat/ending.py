"""The end of vLLM's engine in this process."""

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


@functools.cache
def quiet_llm() -> "type[AsyncLLM]":
    """vLLM's AsyncLLM, but that one left over at the interpreter's end is not shut down then; imports vLLM.

    Its __del__ calls functions whose modules are empty by that time, which prints an ignored exception, also
    for an engine that was shut down long before and that a reference cycle still holds. What an engine's
    processes would need is not lost: they end with this one.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    class QuietLLM(AsyncLLM):  # type: ignore[misc]
        """An AsyncLLM that only ends itself while there is something to end it with."""

        # As a default: this module's names are gone by then, too.
        def __del__(self, is_finalizing=sys.is_finalizing) -> None:  # type: ignore[no-untyped-def]
            if not is_finalizing():
                super().__del__()

    return QuietLLM
