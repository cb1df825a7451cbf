"""Memory is bounded by the pieces in work, whatever the size of a tensor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from octet.quantize.safetensors_file import lay_out

MIB = 1 << 20

# The high-water mark of this program alone; ru_maxrss starts from that of the process that forked it.
MEASURED = """
import sys
from pathlib import Path
from octet.cli import octet
octet(sys.argv[1:], standalone_mode=False)
[peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(int(peak) * 1024, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("architecture", "linear"),
    [
        ("LlamaForCausalLM", {"model.layers.0.mlp.up_proj.weight": (131072, 4096)}),
        # Transposed: an expert's output channels are spread over all of its 128 MiB.
        ("Llama4ForCausalLM", {"model.layers.0.feed_forward.experts.down_proj": (8, 16384, 4096)}),
    ],
)
def test_tensors_larger_than_the_memory_used(
    tmp_path: Path, architecture: str, linear: dict[str, tuple[int, ...]]
) -> None:
    # Holes on the disk, so that the source costs nothing: an embedding and linear layers of 1 GiB each.
    source = tmp_path / "source"
    source.mkdir()
    shapes = {"model.embed_tokens.weight": (131072, 4096), **linear}
    start, header = lay_out([(name, "BF16", shape) for name, shape in shapes.items()], {"format": "pt"})
    with (source / "model.safetensors").open("wb") as file:
        file.write(start)
        file.truncate(header.file_size)
    config = {"architectures": [architecture], "hidden_size": 4096, "num_hidden_layers": 1}
    config |= {"interleave_moe_layer_step": 1, "num_local_experts": 8} if "4" in architecture else {}
    (source / "config.json").write_text(json.dumps(config))

    command = [sys.executable, "-c", MEASURED, "quantize", source, tmp_path / "made", "--workers", "2"]
    peak = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr.split()[-1]
    assert (tmp_path / "made/model.safetensors").stat().st_size > 1536 * MIB
    assert int(peak) < 700 * MIB
