"""The engine alone: Octet's, driven in its own process with token ids, no server and no text around it.

    python -m bench.peers.engine_alone MODEL [ENGINE FLAGS]...

It is asked over standard input and answers on standard output, a line each (`lines`): `Job`s are prepared,
`None` puts on what was prepared.
"""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from bench.peers import bursts
from bench.peers.lines import packed, unpacked
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import HIDDEN, Failure, Form, Piece, Usage
from octet.bench.serving.vllm_grpc import inner_tokens


class EngineTarget:
    """A running engine of Octet's, below everything that Octet adds to vLLM's AsyncLLM."""

    title = "the engine alone"
    kinds = frozenset({Kind.TEXT})
    takes_tokens = True

    def __init__(self, engine: Any) -> None:
        self._llm = engine.llm
        self._ids = inner_tokens(self._llm.vllm_config.model_config.get_vocab_size())

    async def open(self) -> None:
        """It runs."""

    def prepare(self, order: Order, form: Form) -> Any:
        """Prompt, sampling parameters and id."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=form.temperature,
            max_tokens=order.answer_tokens,
            ignore_eos=not form.may_end,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        ids = form.chance(order).choices(self._ids, k=order.prompt_tokens)
        # In the form that vLLM takes as it is, without a thread that prepares it.
        return tokens_input(prompt_token_ids=ids), params, uuid.uuid4().hex

    async def stream(self, request: Any) -> AsyncGenerator[Piece | Usage, None]:
        """Generates, and gives what comes."""
        prompt, params, request_id = request
        tokens = 0
        async for output in self._llm.generate(prompt, params, request_id):
            [candidate] = output.outputs
            tokens += len(candidate.token_ids)
            yield HIDDEN
        if candidate.finish_reason not in ("length", "stop"):
            raise Failure("CANCELLED", f"the answer ended with {candidate.finish_reason!r}")
        yield Usage(len(prompt["prompt_token_ids"]), tokens)

    async def close(self) -> None:
        """The engine is closed by whoever has it."""


async def main(flags: list[str]) -> None:
    """Answers until standard input ends."""
    # Whatever else prints there: standard output is for answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        answers.write(packed(value))
        answers.flush()

    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import create_engine

    engine = await create_engine(await asyncio.to_thread(parse_engine_args, flags))
    try:
        target = EngineTarget(engine)
        prepared: list[Any] = []
        answer("ready")
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            job = unpacked(line)
            if job is None:
                answer(await bursts.play(target, prepared))
            else:
                prepared = bursts.prepare(target, Form(), job)
                answer(len(prepared))
    finally:
        engine.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
