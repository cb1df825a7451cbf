"""`octet bench kernels` as a program: what it writes, and what it refuses. Never how fast anything is."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from octet import ops
from octet.bench import machine, roofs, shapes
from octet.bench.shapes import LinearShape
from octet.cli import octet
from octet.engine.vllm import compat


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(octet, ["bench", "kernels", "--quick", *arguments])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shapes that take no time, and a machine with a small cache; torch's threads are left as they were."""
    monkeypatch.setattr(shapes, "LINEAR", {"small": LinearShape("small", 64, 48)})
    monkeypatch.setattr(shapes, "WIDTHS", {"96": 96})
    monkeypatch.setattr(machine, "l3_bytes", lambda: 1 << 16)
    monkeypatch.setattr(roofs, "SIDE", 64)
    before = torch.get_num_threads(), ops.isa()
    yield
    assert (torch.get_num_threads(), ops.isa()) == before


def test_writes_tables_json_and_a_plot(small: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    isas = list(dict.fromkeys((ops.available_isas()[0], ops.available_isas()[-1])))
    written, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = bench(
        *("--shape", "small", "--shape", "96", "--rows", "5"),
        *(word for isa in isas for word in ("--isa", isa)),
        *("--json", str(written), "--plot", str(plot)),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {(r["variant"], r["threads"]) for r in report["results"]} == {
        (isa, threads) for isa in isas for threads in (1, 2)
    }
    assert {"per_token_quant_fp8", "fp8_linear", "bf16_linear"} <= {r["kernel"] for r in report["results"]}
    for measured in report["results"]:
        beside = {"read", "bf16"} if measured["flops"] else {"copy", "eager"}
        assert beside < set(measured["timings"])
        for timing in measured["timings"].values():
            assert 0 < timing["q1_s"] <= timing["median_s"] <= timing["q3_s"]
    for isa in isas:
        assert f"per_token_quant_fp8, {isa}, 2 threads" in result.stdout
        assert f"fp8_linear, {isa}, 1 threads" in result.stdout
    assert "| small |    5 |" in result.stdout
    assert [roof["threads"] for roof in report["roofs"]] == [1, 2]


def test_measures_only_what_is_asked_for(small: None, tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    result = bench(
        *("--only", "fp8_linear", "--isa", "scalar", "--threads", "1", "--rows", "2"),
        *("--shape", "small", "--json", str(written)),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    (measured,) = report["results"]
    assert (measured["kernel"], measured["variant"], measured["rows"]) == ("fp8_linear", "scalar", 2)
    # vLLM's own bf16 has a column, or the report says why it has none.
    of_vllm = set() if report["notes"] else {"vllm"}
    assert set(measured["timings"]) == {"octet", "read", "bf16", "stock"} | of_vllm
    for note in report["notes"]:
        assert note.startswith("no column of vLLM's bf16: ")
        assert note in " ".join(result.stdout.split())
    assert ("vLLM's bf16 |" in result.stdout) is bool(of_vllm)


@pytest.mark.parametrize(
    ("chosen", "note"),
    [
        ("onednn_mm", None),
        ("linear", "no column of vLLM's bf16: oneDNN does not prepack bf16 weights for this processor"),
        (ImportError("no vllm"), "no column of vLLM's bf16: vLLM cannot be imported: no vllm"),
    ],
)
def test_says_why_vllms_product_is_left_out(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: object, note: str | None
) -> None:
    def product(weight: torch.Tensor) -> object:
        if isinstance(chosen, ImportError):
            raise chosen
        return chosen, lambda x: torch.nn.functional.linear(x, weight)

    monkeypatch.setattr(compat.kernels, "unquantized_linear", product)
    written = tmp_path / "out.json"
    result = bench(
        *("--only", "fp8_linear", "--isa", "scalar", "--threads", "1", "--rows", "2"),
        *("--shape", "small", "--json", str(written)),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    assert ("vllm" in report["results"][0]["timings"]) is (note is None)
    assert len(report["notes"]) == (note is not None)
    assert all(line.startswith(note or "") for line in report["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--isa", "mmx"), "no ISA 'mmx' here; there are scalar"),
        (("--shape", "3b/down"), "no shape '3b/down' here; there are 1b/qkv"),
        (("--only", "matmul"), "no kernel 'matmul' here; there are per_token_quant_fp8"),
        (("--rows", "0"), "0 is not in the range"),
        (("--json", "/nowhere/out.json"), "/nowhere/out.json: there is no such folder"),
    ],
)
def test_refuses_what_there_is_not(arguments: tuple[str, ...], message: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = bench("--device", "cuda")
    assert result.exit_code == 1
    assert result.stderr == "Error: --device cuda: torch finds no GPU on this machine\n"


def test_without_matplotlib_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench("--plot", str(tmp_path / "out.png"))
    assert result.exit_code == 1
    assert result.stderr == "Error: --plot needs matplotlib; run `pip install 'octet-serve[bench]'`\n"
