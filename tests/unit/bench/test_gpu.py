"""How many calls a graph of the GPU's benchmark holds; the rest needs a GPU."""

import pytest

from octet.bench import cases, gpu

MIB = 1 << 20


@pytest.mark.parametrize("l2", [6 * MIB, 50 * MIB, 126 * MIB])
def test_a_graph_moves_twice_the_cache_or_has_as_many_calls_as_it_may(l2: int) -> None:
    for moved in (1, 4096, 3840 * 7, 64 * 3840 * 7, 4096 * 15360 * 5, 16384 * 15360 * 5):
        calls = gpu.calls_in_graph(moved, l2)
        assert 4 <= calls <= 4096
        assert gpu.is_cold(moved, l2) == (calls * moved >= 2 * l2)
        assert gpu.is_cold(moved, l2) or calls == 4096


def test_every_chain_of_rows_can_be_compiled_for_comparison() -> None:
    """A lambda of tensors would be compiled anew for each copy of them."""
    for forms in cases.ROW_KERNELS.values():
        for make in forms:
            case, again = make(2, 32, "cpu"), make(2, 32, "cpu")
            compiled = [gpu.as_compiled(one.functions["eager"]) for one in (case, again)]
            assert compiled[0].func is compiled[1].func  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="is no partial"):
        gpu.as_compiled(lambda: None)
