"""One engine, measured in a process of its own: how fast it decodes, and how soon the first token is there.

    python -m bench.engine_run MODEL [options]      # prints one JSON object on standard output

The engine runs without a server in front of it. With OCTET_KERNELS=off it is vLLM as it comes.
"""

import argparse
import json
import os
import random
import sys
import time
from typing import Any

# Before vLLM is imported: standard output is for the result.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

from vllm import EngineArgs, LLMEngine, SamplingParams

from octet.bench.timing import Timing
from octet.engine.vllm.formats import FP8_VOCABULARY
from octet.engine.vllm.launch.args import WORKER_EXTENSION

_DECODE_PROMPT_TOKENS = 16


class Engine:
    """vLLM's engine, stepped by hand."""

    def __init__(self, model: str, *, eager: bool, longest: int, batch: int, **more: Any) -> None:
        """Loads `model` for `batch` requests of up to `longest` tokens each; `more`: EngineArgs of vLLM."""
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                skip_tokenizer_init=True,
                enforce_eager=eager,
                enable_prefix_caching=False,
                max_model_len=longest,
                max_num_seqs=batch,
                max_num_batched_tokens=max(longest, batch),
                **({"worker_extension_cls": WORKER_EXTENSION} | more),
            )
        )
        self._vocabulary = self._engine.model_config.get_vocab_size()
        self._random = random.Random(0)
        self._requests = 0

    def ask(self, method: str) -> Any:
        """What the engine's only worker answers."""
        (answer,) = self._engine.collective_rpc(method)
        return answer

    def active_kernels(self) -> dict[str, int]:
        """What runs in the model's quantized layers, with their number."""
        return dict(self.ask("octet_active_kernels"))

    def steps(self, batch: int, prompt_tokens: int, new_tokens: int) -> list[tuple[float, int]]:
        """Runs `batch` requests to their end.

        Returns:
            Of each step the seconds that it took and how many requests it gave a token.
        """
        for _ in range(batch):
            prompt: Any = {
                "prompt_token_ids": [
                    self._random.randrange(3, self._vocabulary) for _ in range(prompt_tokens)
                ]
            }
            parameters = SamplingParams(
                temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
            )
            self._engine.add_request(str(self._requests), prompt, parameters)
            self._requests += 1
        taken = []
        start = time.perf_counter()
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now = time.perf_counter()
            if outputs:
                taken.append((now - start, len(outputs)))
                start = now
        return taken

    def decode(self, batch: int, new_tokens: int) -> dict[str, Any]:
        """Tokens a second of a batch, from the steps that give every request of it a token."""
        taken = self.steps(batch, _DECODE_PROMPT_TOKENS, new_tokens + 1)
        # The first steps read the prompts.
        step = Timing.of([seconds for seconds, tokens in taken[1:] if tokens == batch])
        return {"batch": batch, "tokens_per_s": batch / step.median, "step": step.as_json()}

    def first_token(self, prompt_tokens: int, repetitions: int) -> dict[str, Any]:
        """Seconds from a prompt's arrival to its first token, with nothing else to do."""
        taken = [self.steps(1, prompt_tokens, 1)[0][0] for _ in range(repetitions)]
        return {"prompt_tokens": prompt_tokens} | Timing.of(taken).as_json()


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure one engine.")
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=5, help="of the prompt (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    parser.add_argument("--fp8-vocabulary", action="store_true", help="as octet serve takes it")
    arguments = parser.parse_args()
    longest = max(arguments.prompt_tokens, _DECODE_PROMPT_TOKENS + arguments.new_tokens) + 16
    engine = Engine(
        arguments.model,
        eager=arguments.eager,
        longest=longest,
        batch=max(arguments.batches),
        additional_config={FP8_VOCABULARY: True} if arguments.fp8_vocabulary else {},
    )
    engine.steps(1, _DECODE_PROMPT_TOKENS, 2)
    result = {
        "kernels": engine.active_kernels(),
        "first_token": engine.first_token(arguments.prompt_tokens, arguments.repetitions),
        "decode": [engine.decode(batch, arguments.new_tokens) for batch in arguments.batches],
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
