"""What requests have of the engine: places among those that it computes, and prompts that it reads."""

from collections import Counter

from octet.rpc.admission.limits import Limits
from octet.rpc.admission.ticket import Ticket


class Places:
    """Who has how much of the engine.

    All together have `limits.running` sequences. A caller has `limits.running_per_caller` of them at most,
    so that another one's first request finds a place, and `limits.prompt_tokens` of prompts that have no
    answer yet, so that it does not find a queue there. What is more than a limit has to be alone under it.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.sequences: Counter[str] = Counter()
        self._prompt_tokens: Counter[str] = Counter()

    def open(self, limits: Limits) -> None:
        """Sets what there is."""
        self._limits = limits

    def are_free(self, ticket: Ticket) -> bool:
        """Whether all callers together leave a request enough."""
        sequences = self.sequences.total()
        return not sequences or sequences + ticket.cost.sequences <= self._limits.running

    def are_due(self, ticket: Ticket) -> bool:
        """Whether a request's own caller leaves it enough."""
        sequences, tokens = self.sequences[ticket.caller], self._prompt_tokens[ticket.caller]
        more, most = ticket.cost.sequences, self._limits.running_per_caller
        if sequences and most is not None and sequences + more > most:
            return False
        most = self._limits.prompt_tokens
        return most is None or not tokens or tokens + ticket.cost.text_tokens <= most

    def take(self, ticket: Ticket) -> None:
        """The request is given to the engine."""
        self.requests += 1
        self.sequences[ticket.caller] += ticket.cost.sequences
        if ticket.cost.text_tokens:
            self._prompt_tokens[ticket.caller] += ticket.cost.text_tokens
            ticket.reads_prompt = True

    def answered(self, ticket: Ticket) -> None:
        """The engine has read the request's prompt. Idempotent."""
        if ticket.reads_prompt:
            ticket.reads_prompt = False
            self._prompt_tokens[ticket.caller] -= ticket.cost.text_tokens

    def leave(self, ticket: Ticket) -> None:
        """The engine has it no more."""
        self.answered(ticket)
        self.requests -= 1
        self.sequences[ticket.caller] -= ticket.cost.sequences
