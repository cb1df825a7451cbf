from octet.engine.types import CandidateFinished, Deltas, FinishReason, PromptAccepted, TextDelta, Usage
from octet.rpc.progress import Progress

USAGE = Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=1, image_tokens=2)


def test_cancelled_candidates_get_their_end_and_finished_ones_keep_theirs() -> None:
    progress = Progress(3)
    progress.note(PromptAccepted(5, 2))
    progress.note(Deltas((TextDelta(0, "a"), CandidateFinished(1, FinishReason.STOP)), USAGE))
    assert not progress.complete
    [end] = progress.cancel()
    assert end == Deltas(
        (CandidateFinished(0, FinishReason.CANCELLED), CandidateFinished(2, FinishReason.CANCELLED)), USAGE
    )
    assert progress.complete
    assert list(progress.cancel()) == []


def test_usage_of_the_prompt_counts_before_the_first_step() -> None:
    progress = Progress(1)
    progress.note(PromptAccepted(5, 2))
    [end] = progress.cancel()
    assert isinstance(end, Deltas)
    assert end.usage == Usage(prompt_tokens=5, completion_tokens=0, cached_tokens=0, image_tokens=2)


def test_cancelled_before_the_prompt_was_accepted() -> None:
    first, end = Progress(1).cancel()
    assert first == PromptAccepted(0, 0)
    assert isinstance(end, Deltas)
    assert end.deltas == (CandidateFinished(0, FinishReason.CANCELLED),)


def test_complete() -> None:
    progress = Progress(1)
    progress.note(PromptAccepted(5, 2))
    progress.note(Deltas((CandidateFinished(0, FinishReason.LENGTH),), USAGE))
    assert progress.complete
    assert list(progress.cancel()) == []
