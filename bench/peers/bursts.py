"""What every peer is asked: bursts of requests that begin together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import Load, Prepared, closed
from octet.bench.serving.target import Form, Target

_LEAST_ANSWERS = 8
_LEAST_BURSTS = 2


@dataclass(frozen=True, slots=True)
class Job:
    """Bursts at one level, of one turn.

    Attributes:
        streams: requests that begin together.
        bursts: how often they do.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        salt: makes the prompts others than those of other jobs.
    """

    streams: int
    bursts: int
    prompt_tokens: int
    answer_tokens: int
    salt: str

    @classmethod
    def of(cls, streams: int, prompt_tokens: int, answer_tokens: int, salt: str) -> "Job":
        """So many streams, in as many bursts as make enough answers."""
        bursts = max(_LEAST_BURSTS, _LEAST_ANSWERS // streams)
        return cls(streams, bursts, prompt_tokens, answer_tokens, salt)


def prepare(target: Target, form: Form, job: Job) -> list[list[Prepared]]:
    """The requests of a job's bursts."""
    salted = replace(form, salt=job.salt)
    orders = [
        [
            Order(burst * job.streams + stream, Kind.TEXT, job.prompt_tokens, job.answer_tokens)
            for stream in range(job.streams)
        ]
        for burst in range(job.bursts)
    ]
    return [[(order, target.prepare(order, salted)) for order in burst] for burst in orders]


async def play(target: Target, bursts: Sequence[Sequence[Prepared]]) -> list[Load]:
    """Puts the bursts on, one when the one before has been answered."""
    return [await closed(target, burst, len(burst), lambda outcome: None) for burst in bursts]
