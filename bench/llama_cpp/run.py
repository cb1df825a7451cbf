"""llama.cpp, measured as `bench.engine_run` measures vLLM: the same prompts' lengths, the same steps.

    build/llama-cpp/bin/python bench/llama_cpp/run.py FILE.gguf --cores 0,1     # one JSON object

The binding's classes are left out: C functions are called, and of Python there is a step's least. Each step
takes the most probable token of every sequence, which vLLM's steps do, too. A program of llama.cpp's
environment.
"""

import argparse
import json
import os
import random
import sys
import time
from typing import Any

import llama_cpp  # type: ignore[import-not-found]
import numpy as np

_DECODE_PROMPT_TOKENS = 16


class Context:
    """A loaded model with room for `sequences` of up to `longest` tokens."""

    def __init__(self, model: Any, *, threads: int, longest: int, sequences: int) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = longest * sequences
        parameters.n_batch = parameters.n_ubatch = max(512, _DECODE_PROMPT_TOKENS * sequences)
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context")
        self._words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)
        self._random = random.Random(0)

    def close(self) -> None:
        """Gives its memory back."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def clear(self) -> None:
        """Forgets all sequences."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def prompts(self, sequences: int, tokens: int) -> list[list[int]]:
        """Random token ids."""
        return [[self._random.randrange(3, self._words) for _ in range(tokens)] for _ in range(sequences)]

    def step(self, tokens: list[list[int]], position: int) -> list[int]:
        """Computes the next tokens of each sequence, which begin at `position`; gives each one's successor.

        Raises:
            RuntimeError: llama.cpp cannot.
        """
        batch, place, last = self._batch, 0, []
        for sequence, ids in enumerate(tokens):
            for offset, token in enumerate(ids):
                batch.token[place] = token
                batch.pos[place] = position + offset
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = offset == len(ids) - 1
                place += 1
            last.append(place - 1)
        batch.n_tokens = place
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode ends with {status}")
        return [self._most_probable(place) for place in last]

    def _most_probable(self, place: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, place)
        return int(np.ctypeslib.as_array(logits, shape=(self._words,)).argmax())


def decode_seconds(context: Context, sequences: int, new_tokens: int) -> list[float]:
    """What each step took that gave `sequences` a token, behind their prompts."""
    context.clear()
    tokens = context.step(context.prompts(sequences, _DECODE_PROMPT_TOKENS), 0)
    taken = []
    for position in range(_DECODE_PROMPT_TOKENS, _DECODE_PROMPT_TOKENS + new_tokens):
        start = time.perf_counter()
        tokens = context.step([[token] for token in tokens], position)
        taken.append(time.perf_counter() - start)
    return taken


def first_token_seconds(context: Context, prompt_tokens: int, repetitions: int) -> list[float]:
    """From a prompt's arrival to its first token, each time."""
    taken = []
    for prompt in context.prompts(repetitions, prompt_tokens):
        context.clear()
        start = time.perf_counter()
        context.step([prompt], 0)
        taken.append(time.perf_counter() - start)
    return taken


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description="Measure llama.cpp.")
    parser.add_argument("model")
    parser.add_argument("--cores", required=True, help="such as 0,1: a thread on each")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    cores = {int(core) for core in arguments.cores.split(",")}
    os.sched_setaffinity(0, cores)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        arguments.model.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        sys.exit(f"llama.cpp cannot load {arguments.model}")
    longest = max(arguments.prompt_tokens, _DECODE_PROMPT_TOKENS + arguments.new_tokens) + 16
    result: dict[str, Any] = {"system": llama_cpp.llama_print_system_info().decode(), "decode_s": {}}
    for batch in arguments.batches:
        context = Context(model, threads=len(cores), longest=longest, sequences=batch)
        decode_seconds(context, batch, 2)
        if "first_token_s" not in result:
            result["first_token_s"] = first_token_seconds(
                context, arguments.prompt_tokens, arguments.repetitions
            )
        result["decode_s"][batch] = decode_seconds(context, batch, arguments.new_tokens)
        context.close()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
