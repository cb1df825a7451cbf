"""Measures `octet quantize`: its memory, and its speed against a copy of the same files and llm-compressor.

    python -m bench.quantize [--layers N] [--oracle build/oracle/bin/python]

The checkpoint is drawn here: Gemma 3 in the shape of its 1B model, bf16, in shards. Every figure is the wall
time of one process from its start to its end, imports included; the source is in the page cache, for all
alike. `octet quantize` flushes what it writes before it ends. The copy does not, so it is shown without a
flush, its data still in memory, and with one (sync). llm-compressor is given no flush either. Peak memory is
the process's ru_maxrss, in which the page cache does not count.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HIDDEN, INNER, HEADS, HEAD_DIM, VOCABULARY = 1152, 6912, 4, 256, 262144
SHAPES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
LAYERS_PER_SHARD = 7


def write_checkpoint(directory: Path, layers: int) -> None:
    """Writes a Gemma 3 text model with random weights."""
    import torch
    from safetensors.torch import save_file

    noise = torch.randn(INNER * HIDDEN).mul_(0.02).to(torch.bfloat16)

    def draw(*shape: int) -> torch.Tensor:
        return noise.repeat(-(-math.prod(shape) // len(noise)))[: math.prod(shape)].reshape(shape).clone()

    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "bfloat16",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "tie_word_embeddings": True,
    }
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, torch.Tensor]] = [
        {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN), "model.norm.weight": draw(HIDDEN)}
    ]
    for layer in range(layers):
        if layer % LAYERS_PER_SHARD == 0:
            shards.append({})
        prefix = f"model.layers.{layer}."
        shards[-1] |= {f"{prefix}{name}.weight": draw(*shape) for name, shape in SHAPES.items()}
        shards[-1] |= {f"{prefix}{name}.weight": draw(HIDDEN) for name in NORMS}
        shards[-1] |= {f"{prefix}self_attn.{name}.weight": draw(HEAD_DIM) for name in ("q_norm", "k_norm")}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def run(command: list[str | Path]) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MiB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"{command} failed with status {status}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path("build/bench"), help="where the files are put")
    parser.add_argument("--layers", type=int, default=26, help="layers of the model (default: 26, 2.0 GB)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="worker counts to measure")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts (default: 3)")
    parser.add_argument("--oracle", type=Path, help="llm-compressor's Python, to compare with (make oracle)")
    arguments = parser.parse_args()
    source, target = arguments.directory / f"source-{arguments.layers}", arguments.directory / "target"
    if not source.exists():
        # In a process of its own: a child's ru_maxrss starts from the memory of the process that forks it.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=(source, arguments.layers)
        )
        writer.start()
        writer.join()
    if arguments.repeat == 0:
        return
    size = sum(file.stat().st_size for file in source.iterdir())
    print(f"source: {size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} shards")

    def measure(name: str, command: list[str | Path]) -> float:
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        seconds, memory = run(command)
        print(f"{name:28} {seconds:7.2f} s  {size / seconds / 1e6:7.0f} MB/s  {memory:7.0f} MiB", flush=True)
        return seconds

    copy: list[str | Path] = ["cp", "-r", source, target]
    commands: dict[str, list[str | Path]] = {
        "cp -r": copy,
        "cp -r; sync": ["sh", "-c", 'cp -r "$1" "$2" && sync', "sh", *copy[2:]],
    }
    for workers in arguments.workers:
        quantize = [sys.executable, "-m", "octet", "quantize", source, target, "--workers", str(workers)]
        commands[f"octet quantize --workers {workers}"] = quantize
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.repeat):  # In turns, for the machine's speed drifts.
        for name, command in commands.items():
            times[name].append(measure(name, command))
    fastest = {name: min(values) for name, values in times.items()}
    if arguments.oracle:
        script = ROOT / "tools/quantize_oracle/compress.py"
        fastest["llm-compressor"] = measure("llm-compressor", [arguments.oracle, script, source, target])
    print("\nthe fastest of each, and the speed of octet to it:")
    octet = fastest[list(commands)[-1]]
    for name, seconds in fastest.items():
        print(f"{name:28} {seconds:7.2f} s  {seconds / octet:7.2f} x")
    shutil.rmtree(target)


if __name__ == "__main__":
    main()
