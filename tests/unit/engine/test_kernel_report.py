"""What the workers report, as a line a kernel."""

from octet.engine.vllm.kernels import summarize


def test_one_rank() -> None:
    assert summarize([{"b=octet/avx2": 4, "a=octet/avx2": 2}]) == (
        "a=octet/avx2 in 2 layers",
        "b=octet/avx2 in 4 layers",
    )


def test_ranks_that_agree_share_a_line() -> None:
    assert summarize([{"a=octet/avx2": 2}] * 8) == ("a=octet/avx2 in 2 layers of each of 8 ranks",)


def test_ranks_that_differ_have_a_line_each() -> None:
    """As pipeline stages do, and ranks on unlike machines."""
    reports = [{"a=octet/avx2": 2}, {"a=octet/avx512": 2}, {"a=octet/avx2": 1}]
    assert summarize(reports) == (
        "a=octet/avx2 in 2 layers of rank 0",
        "a=octet/avx2 in 1 layers of rank 2",
        "a=octet/avx512 in 2 layers of rank 1",
    )
