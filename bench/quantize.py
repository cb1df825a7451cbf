"""Measures `octet quantize`: its memory, and its speed against a copy of the same files and llm-compressor.

    python -m bench.quantize [--model NAME] [--layers N] [--oracle build/oracle/bin/python]

The checkpoint is drawn here, bf16, in shards: `dense` is Gemma 3 in the shape of its 1B model, `experts` a
mixture of experts with a tensor for each expert's matrices (Qwen 3's sizes, 32 of its 128 experts), `stacked`
one whose experts lie in one transposed tensor (Llama 4's layout), for which transformers is asked what is in
it; that time is in the figure. Every figure is the wall
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
from typing import Any

ROOT = Path(__file__).parents[1]
HIDDEN, INNER, HEADS, HEAD_DIM, VOCABULARY = 1152, 6912, 4, 256, 262144
LAYERS_PER_SHARD = 7
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
EXPERTS, EXPERT_HIDDEN, EXPERT_INNER, EXPERT_HEADS, EXPERT_HEAD_DIM = 32, 2048, 768, 32, 128
LAYERS = {"dense": 26, "experts": 6, "stacked": 6}
"""Of each model by default: 2 GB and somewhat more."""


def config_of(model: str, layers: int) -> dict[str, Any]:
    """What config.json says."""
    common = {"dtype": "bfloat16", "vocab_size": VOCABULARY, "num_hidden_layers": layers}
    if model == "dense":
        return common | {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 1,
            "head_dim": HEAD_DIM,
            "tie_word_embeddings": True,
        }
    common |= {
        "vocab_size": 32768,
        "hidden_size": EXPERT_HIDDEN,
        "num_attention_heads": EXPERT_HEADS,
        "num_key_value_heads": 4,
        "head_dim": EXPERT_HEAD_DIM,
        "num_experts_per_tok": 8,
        "tie_word_embeddings": False,
    }
    if model == "experts":
        sizes = {"num_experts": EXPERTS, "moe_intermediate_size": EXPERT_INNER}
        return common | sizes | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    sizes = {"num_local_experts": EXPERTS, "intermediate_size": EXPERT_INNER, "interleave_moe_layer_step": 1}
    return common | sizes | {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"}


def layer_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer, by their names below it."""
    if model == "dense":
        norms = dict.fromkeys(NORMS, (HIDDEN,)) | dict.fromkeys(
            ("self_attn.q_norm", "self_attn.k_norm"), (HEAD_DIM,)
        )
        return {f"{name}.weight": shape for name, shape in (SHAPES | norms).items()}
    hidden, inner, heads = EXPERT_HIDDEN, EXPERT_INNER, EXPERT_HEADS * EXPERT_HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (heads, hidden),
        "self_attn.k_proj.weight": (4 * EXPERT_HEAD_DIM, hidden),
        "self_attn.v_proj.weight": (4 * EXPERT_HEAD_DIM, hidden),
        "self_attn.o_proj.weight": (hidden, heads),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if model == "experts":
        shapes |= {"mlp.gate.weight": (EXPERTS, hidden)}
        shapes |= dict.fromkeys(("self_attn.q_norm.weight", "self_attn.k_norm.weight"), (EXPERT_HEAD_DIM,))
        for expert in range(EXPERTS):
            prefix = f"mlp.experts.{expert}."
            shapes |= dict.fromkeys((f"{prefix}gate_proj.weight", f"{prefix}up_proj.weight"), (inner, hidden))
            shapes[f"{prefix}down_proj.weight"] = (hidden, inner)
        return shapes
    shared = dict.fromkeys(("gate_proj", "up_proj"), (inner, hidden)) | {"down_proj": (hidden, inner)}
    return (
        shapes
        | {f"feed_forward.shared_expert.{name}.weight": shape for name, shape in shared.items()}
        | {
            "feed_forward.router.weight": (EXPERTS, hidden),
            "feed_forward.experts.gate_up_proj": (EXPERTS, hidden, 2 * inner),
            "feed_forward.experts.down_proj": (EXPERTS, inner, hidden),
        }
    )


def write_checkpoint(directory: Path, model: str, layers: int) -> None:
    """Writes a model with random weights."""
    import torch
    from safetensors.torch import save_file

    noise = torch.randn(INNER * HIDDEN).mul_(0.02).to(torch.bfloat16)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return noise.repeat(-(-math.prod(shape) // len(noise)))[: math.prod(shape)].reshape(shape).clone()

    config = config_of(model, layers)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    table = (config["vocab_size"], config["hidden_size"])
    outside: dict[str, tuple[int, ...]] = {"embed_tokens.weight": table, "norm.weight": table[1:]}
    shards = [{f"model.{name}": draw(shape) for name, shape in outside.items()}]
    if not config["tie_word_embeddings"]:
        shards[0]["lm_head.weight"] = draw(table)
    per_shard = LAYERS_PER_SHARD if model == "dense" else 1
    for layer in range(layers):
        if layer % per_shard == 0:
            shards.append({})
        shards[-1] |= {
            f"model.layers.{layer}.{name}": draw(shape) for name, shape in layer_shapes(model).items()
        }
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
    parser.add_argument("--model", choices=LAYERS, default="dense", help="which model (default: dense)")
    parser.add_argument("--layers", type=int, help="layers of the model (default: 26, or 6 of experts; 2 GB)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="worker counts to measure")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts (default: 3)")
    parser.add_argument("--oracle", type=Path, help="llm-compressor's Python, to compare with (make oracle)")
    arguments = parser.parse_args()
    layers = arguments.layers or LAYERS[arguments.model]
    source = arguments.directory / f"source-{arguments.model}-{layers}"
    target = arguments.directory / "target"
    if not source.exists():
        # In a process of its own: a child's ru_maxrss starts from the memory of the process that forks it.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=(source, arguments.model, layers)
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
