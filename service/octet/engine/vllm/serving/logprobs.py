"""vLLM's log probabilities in the service's terms, and how many a request may ask for."""

from typing import TYPE_CHECKING

from octet.engine.types import PositionLogprobs, Sampling, TokenLogprob
from octet.engine.vllm.serving.vocabulary import Vocabulary
from octet.errors import InvalidRequestError

if TYPE_CHECKING:
    from vllm.logprobs import FlatLogprobs

# vLLM makes Python objects of them on the event loop.
MAX_PROMPT_LOGPROBS = 65536


def check_prompt_logprobs(sampling: Sampling, prompt_tokens: int, siblings: int = 1) -> None:
    """Raises InvalidRequestError when the prompt is too long for the prompt's log probabilities asked for.

    `siblings` are the prompts of the request, which share its limit.
    """
    if sampling.prompt_logprobs is None:
        return
    asked, most = prompt_tokens * (sampling.prompt_logprobs + 1) * sampling.n, MAX_PROMPT_LOGPROBS // siblings
    if asked > most:
        share = f", its share among {siblings} prompts" if siblings > 1 else ""
        raise InvalidRequestError(
            "sampling.prompt_logprobs",
            f"asks for {asked} log probabilities ({prompt_tokens} tokens, {sampling.prompt_logprobs + 1} at "
            f"each, {sampling.n} candidates), more than the limit of {most}{share}",
        )


def to_positions(logprobs: "FlatLogprobs", vocabulary: Vocabulary, top: int) -> tuple[PositionLogprobs, ...]:
    """Gives each position's log probabilities; `top` is how many of the best were asked for."""
    return tuple(
        _position([_token(logprobs, at, vocabulary) for at in range(start, end)], top)
        for start, end in zip(logprobs.start_indices, logprobs.end_indices, strict=True)
    )


def _position(tokens: list[TokenLogprob], top: int) -> PositionLogprobs:
    """Of vLLM's list for one position: the token that stands there, then the most probable ones.

    Where vLLM has merged steps for a slow reader, the token that stands there is not repeated among those.
    """
    if not tokens:
        return PositionLogprobs(None, ())
    chosen, *best = tokens
    if len(best) < top:
        return PositionLogprobs(chosen, tuple(sorted(tokens, key=lambda token: token.rank)))
    # Among equally probable tokens vLLM ranks the chosen one last, and the top as they come.
    ranked = next((token for token in best if token.token_id == chosen.token_id), chosen)
    return PositionLogprobs(ranked, tuple(best))


def _token(logprobs: "FlatLogprobs", at: int, vocabulary: Vocabulary) -> TokenLogprob:
    token_id, rank = logprobs.token_ids[at], logprobs.ranks[at]
    return TokenLogprob(
        token_id, vocabulary.text(token_id), vocabulary.data(token_id), logprobs.logprobs[at], rank or 0
    )
