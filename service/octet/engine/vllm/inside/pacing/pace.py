"""How many tokens of prompts a step may compute, found out from how long steps took.

A step that computes a long part of a prompt holds up every answer that is being written. vLLM bounds it in
tokens; what a caller's stream feels is time, which between models and machines differs a thousandfold.
"""

ANSWERS_TIMES = 2.5
"""With prompts beside them, answers' steps take at most so many times as long as without."""
STEP_SECONDS = 0.25
"""What such a step may take at most,"""
LEAST_TIMES = 1.5
"""unless that is less than so many times as long as without prompts: these have to get on."""
ALONE_SECONDS = 0.5
"""What a step may take that holds up no answer: a request that comes meanwhile waits for its end."""
_LEAST_TOKENS = 32
_ALONE_TOKENS = 256
_UNKNOWN_TOKENS = 256
_LOOK_AGAIN = 16
"""So often a step leaves the prompts out, to see how long the answers, by now more or fewer, take."""
_WEIGHT = 0.3


class Pace:
    """What steps may compute of prompts.

    The seconds of a step are taken to be those of its answers, and so many for each token of a prompt. Both
    are exponentially weighted means: the first of steps without prompts, the second of steps with them.
    """

    def __init__(self) -> None:
        self._answers_seconds: float | None = None
        self._token_seconds: float | None = None
        self._steps_with_prompts = 0

    def tokens(self, *, answering: bool) -> int:
        """How many tokens of prompts the next step may compute; 0 when it is to be one of answers alone.

        Args:
            answering: whether answers are being written meanwhile.
        """
        if answering and (self._answers_seconds is None or self._steps_with_prompts >= _LOOK_AGAIN):
            return 0
        if self._token_seconds is None:
            return _UNKNOWN_TOKENS
        if not answering or self._answers_seconds is None:
            return max(_ALONE_TOKENS, int(ALONE_SECONDS / self._token_seconds))
        return max(_LEAST_TOKENS, int(self.spare_seconds(answering=True) / self._token_seconds))

    def spare_seconds(self, *, answering: bool) -> float:
        """What a step may take beside its answers.

        Args:
            answering: whether answers are being written meanwhile.
        """
        if not answering or self._answers_seconds is None:
            return ALONE_SECONDS
        answers = self._answers_seconds
        return min(ANSWERS_TIMES * answers, max(STEP_SECONDS, LEAST_TIMES * answers)) - answers

    def measured(self, seconds: float, *, prompt_tokens: int, answering: bool) -> None:
        """Notes how long a step took.

        Args:
            seconds: that it took, without what it encoded of pictures.
            prompt_tokens: that it computed.
            answering: whether it wrote answers.
        """
        if answering and not prompt_tokens:
            self._answers_seconds = _mean(self._answers_seconds, seconds)
            self._steps_with_prompts = 0
            return
        self._steps_with_prompts += answering
        # A few tokens take as long as one; what they would say of a token is far too much.
        if prompt_tokens >= _LEAST_TOKENS:
            answers = (self._answers_seconds or 0.0) if answering else 0.0
            # Answers may have become faster meanwhile than what is known of them.
            each = max(seconds - answers, seconds / 10) / prompt_tokens
            self._token_seconds = _mean(self._token_seconds, each)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _WEIGHT * (value - mean)
