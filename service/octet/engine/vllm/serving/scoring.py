"""How probable a model finds given tokens, and what it answers without chance: an engine for comparisons."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from octet.engine.types import GenerationRequest, Message, Role, TextPart
from octet.engine.types import Prompt as RawPrompt
from octet.engine.vllm.launch import startup
from octet.engine.vllm.launch.args import one_line, parse_engine_args
from octet.engine.vllm.serving.engine import SHUTDOWN_SECONDS
from octet.engine.vllm.serving.render import PromptRenderer
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from octet.engine.vllm.launch.args import EngineSettings


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a model predicts for each token of a text but the first, after those before it.

    Attributes:
        ids: int32 [T], the tokens.
        logprobs: f32 [T], the natural logarithm of each token's probability.
        top_ids: int32 [T, K], the K most probable tokens at its place, the most probable first.
        top_logprobs: f32 [T, K], theirs.
    """

    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to a prompt, the most probable token each time.

    Attributes:
        prompt: the prompt's tokens.
        tokens: the answer's, its end included where it comes to one.
        text: the answer.
    """

    prompt: list[int]
    tokens: list[int]
    text: str


class Texts:
    """What texts are to a model."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: str) -> list[int]:
        """A text's tokens, without those that the tokenizer would put around a whole prompt."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def opening(self) -> list[int]:
        """The tokens that every prompt begins with, such as <bos>; none with many tokenizers."""
        ids: list[int] = self._tokenizer.encode("", add_special_tokens=True)
        begin = self._tokenizer.bos_token_id
        return ids[:1] if ids[:1] == [begin] else []


def load_texts(model: str, engine_flags: Sequence[str] = ()) -> Texts:
    """The tokenizer that a model would be started with.

    Args:
        model: a directory or a hub id.
        engine_flags: vLLM's, as `scorer` takes them.

    Raises:
        StartupError: there is no such model, or its tokenizer cannot be read.
    """
    engine = parse_engine_args([model, *engine_flags]).engine
    from vllm.tokenizers import get_tokenizer

    try:
        return Texts(
            get_tokenizer(
                engine.tokenizer or engine.model,
                tokenizer_mode=engine.tokenizer_mode,
                trust_remote_code=engine.trust_remote_code,
                revision=engine.tokenizer_revision,
            )
        )
    except Exception as error:  # What transformers raises depends on the model.
        raise StartupError(f"the tokenizer of {model} cannot be read: {one_line(error)}") from error


class Scorer:
    """A running model."""

    def __init__(self, llm: "AsyncLLM") -> None:
        self._llm = llm
        self._ids = itertools.count()

    @property
    def vocab_size(self) -> int:
        """How many tokens the model predicts."""
        return int(self._llm.model_config.get_vocab_size())

    @property
    def context_window(self) -> int:
        """Most tokens of a prompt and its answer, of which there has to be one."""
        return int(self._llm.model_config.max_model_len)

    @property
    def texts(self) -> Texts:
        """What texts are to it."""
        return Texts(self._llm.renderer.get_tokenizer())

    async def score(self, prompt: Any, top: int) -> TokenScores:
        """Scores a prompt: token ids, or what else vLLM takes, pictures included.

        Args:
            prompt: its tokens together with the one that is generated after them must fit into the context.
            top: how many of the most probable tokens to return at each place; at most `vocab_size`.
        """
        from vllm.sampling_params import SamplingParams

        if isinstance(prompt, Sequence) and not isinstance(prompt, str):
            prompt = {"prompt_token_ids": list(prompt)}
        # A greedy token is the least that vLLM generates; flat and undecoded, or 10^5 objects come a place.
        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=top, flat_logprobs=True, detokenize=False
        )
        async for output in self._llm.generate(prompt, params, f"score-{next(self._ids)}"):
            last = output
        return _read(last.prompt_logprobs, top)


class Answerer(Scorer):
    """A running model that is asked, too."""

    def __init__(self, llm: "AsyncLLM", settings: "EngineSettings") -> None:
        super().__init__(llm)
        self._settings = settings

    async def answer(self, question: str, max_tokens: int) -> Answer:
        """Answers a question greedily: as a user's turn where the model has a chat template, else continued.

        Args:
            question: the text.
            max_tokens: most tokens of the answer.

        Raises:
            InvalidRequestError: the question does not fit into the context.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        prompt = await self._renderer.render(self._request(question))
        params = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY
        )
        async for output in self._llm.generate(prompt.engine_input, params, f"answer-{next(self._ids)}"):
            last = output
        found = last.outputs[0]
        return Answer(list(last.prompt_token_ids), list(found.token_ids), found.text)

    @cached_property
    def _renderer(self) -> PromptRenderer:
        return PromptRenderer(self._llm.renderer, self._llm.model_config, self._settings)

    def _request(self, question: str) -> GenerationRequest:
        parts, name = (TextPart(question),), f"answer-{next(self._ids)}"
        if self._renderer.has_template:
            return GenerationRequest(name, messages=(Message(Role.USER, parts),))
        return GenerationRequest(name, prompt=RawPrompt("prompt", parts))


@asynccontextmanager
async def scorer(model: str, engine_flags: Sequence[str] = ()) -> AsyncIterator[Answerer]:
    """Starts a model to be scored and asked, with vLLM's flags, and stops it at the end.

    Args:
        model: a directory or a hub id.
        engine_flags: such as ("--max-model-len", "1024").

    Raises:
        StartupError: with one line that says what is wrong.
    """
    settings = parse_engine_args([model, "--max-logprobs", "-1", *engine_flags])
    launch = startup.Launch(settings)
    llm = await asyncio.to_thread(launch.serve)
    try:
        yield Answerer(llm, settings)
    finally:
        if llm.output_handler is not None:
            # Otherwise it would take the end for the engine's death, and log that.
            llm.output_handler.cancel()
        await asyncio.to_thread(llm.shutdown, SHUTDOWN_SECONDS)
        launch.close()


def _read(flat: Any, top: int) -> TokenScores:
    """vLLM's flat list: for each place the prompt's token and then the `top` best; nothing for the first."""
    rows = len(flat) - 1
    logprobs = np.asarray(flat.logprobs, dtype=np.float32).reshape(rows, top + 1)
    ids = np.asarray(flat.token_ids, dtype=np.int32).reshape(rows, top + 1)
    return TokenScores(ids[:, 0], logprobs[:, 0], ids[:, 1:], logprobs[:, 1:])
