"""Writes a checkpoint of `bench.random_checkpoint` as llama.cpp reads it, every matrix in Q8_0.

    build/llama-cpp/bin/python bench/llama_cpp/write_gguf.py BF16_FOLDER FILE.gguf

Q8_0 is 8 bits with one scale for 32 numbers: of llama.cpp's formats the one as large as FP8. The matrices are
those of the bf16 checkpoint, the embedding among them, which the output layer shares. There is no tokenizer.
A program of llama.cpp's environment.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import numpy as np
import numpy.typing as npt

# By the checkpoint's name for a layer's tensor, llama.cpp's.
_LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def write(folder: Path, target: Path) -> None:
    """Writes `target` from a checkpoint of Gemma 3's text model in bf16.

    Raises:
        KeyError: it has a tensor that such a model has not.
        ValueError: its attention is scaled otherwise than llama.cpp scales that of a Gemma 3 of its size.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["query_pre_attn_scalar"] != config["head_dim"]:
        raise ValueError(f"{folder / 'config.json'}: query_pre_attn_scalar is not head_dim")
    writer = gguf.GGUFWriter(target, "gemma3")
    _describe(writer, config)
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in _read(file):
            _add(writer, _name_of(name.removesuffix(".weight")) + ".weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("none")


def _name_of(module: str) -> str:
    if match := _LAYER.fullmatch(module):
        return f"blk.{match[1]}.{_LAYER_TENSORS[match[2]]}"
    return _TENSORS[module]


def _read(file: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """The bf16 tensors of a safetensors file, widened."""
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        header = json.loads(data.read(length))
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{file}: {name} is {entry['dtype']}, not BF16")
        begin, end = entry["data_offsets"]
        halves = np.fromfile(file, np.uint16, (end - begin) // 2, offset=8 + length + begin)
        widened = (halves.astype(np.uint32) << 16).view(np.float32)
        found.append((name, widened.reshape(entry["shape"])))
    return found


def _add(writer: Any, name: str, tensor: npt.NDArray[np.float32]) -> None:
    if tensor.ndim == 1:
        # Gemma multiplies by one more than the weight, llama.cpp by what the file says.
        writer.add_tensor(name, tensor + np.float32(1))
        return
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(tensor, q8), raw_dtype=q8)


def main() -> None:
    """Writes what the command line names."""
    parser = argparse.ArgumentParser(description="Write a random checkpoint as GGUF.")
    parser.add_argument("folder", type=Path, help="of the bf16 checkpoint")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.target)


if __name__ == "__main__":
    main()
