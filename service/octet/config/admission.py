"""How much is answered at the same time, and how much may wait."""

from dataclasses import dataclass

from octet.config.checks import at_least


@dataclass(frozen=True)
class AdmissionConfig:
    """Limits beyond which calls are refused with RESOURCE_EXHAUSTED, before any work is done on them.

    Attributes:
        max_running_requests: requests, a request for n candidates counting n, that the engine is given at the
            same time; None: what it computes at once and an eighth more, so that it never idles.
        max_running_requests_per_key: of one caller, at the same time; None: all but an eighth of what the
            engine computes at once, and one less at least, where the server tells callers apart.
        max_waiting_requests: requests that wait for their turn, 0 for none; None: a quarter of what may run.
        max_waiting_tokens: tokens of their prompts together, estimated; None: 8 times the context window.
        max_waiting_images: pictures that are not decoded yet, of all requests together.
        max_token_calls: CountTokens, Tokenize and Detokenize calls that are answered or wait together.
    """

    max_running_requests: int | None = None
    max_running_requests_per_key: int | None = None
    max_waiting_requests: int | None = None
    max_waiting_tokens: int | None = None
    max_waiting_images: int = 64
    max_token_calls: int = 64

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if self.max_running_requests is not None:
            at_least(1, "--max-running-requests", self.max_running_requests)
        if self.max_running_requests_per_key is not None:
            at_least(1, "--max-running-requests-per-key", self.max_running_requests_per_key)
        if self.max_waiting_requests is not None:
            at_least(0, "--max-waiting-requests", self.max_waiting_requests)
        if self.max_waiting_tokens is not None:
            at_least(1, "--max-waiting-tokens", self.max_waiting_tokens)
        at_least(1, "--max-waiting-images", self.max_waiting_images)
        at_least(1, "--max-token-calls", self.max_token_calls)
