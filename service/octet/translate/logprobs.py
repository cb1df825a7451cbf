"""Log probabilities, from the engine's types to the protocol."""

from collections.abc import Iterable, Iterator

from octet.engine.types import PositionLogprobs, TokenLogprob
from octet.v1 import chat_service_pb2


def to_positions(positions: Iterable[PositionLogprobs]) -> Iterator[chat_service_pb2.PositionLogprobs]:
    """Gives each position as a message; the chosen token of a prompt's first one is unset."""
    for position in positions:
        message = chat_service_pb2.PositionLogprobs(top=[_to_token(token) for token in position.top])
        if position.chosen is not None:
            message.chosen.CopyFrom(_to_token(position.chosen))
        yield message


def _to_token(token: TokenLogprob) -> chat_service_pb2.TokenLogprob:
    return chat_service_pb2.TokenLogprob(
        token_id=token.token_id,
        token=token.text,
        data=token.data,
        logprob=token.logprob,
        rank=token.rank,
    )
