"""Families of models as people quantize them: a tiny config of each, and what stays by the family's recipe.

The recipes are those of llm-compressor's examples and of the checkpoints that its authors publish: everything
that is a linear layer in transformers is quantized, but for these. They are the oracle of what
:mod:`octet.quantize.anatomy` finds out by itself. Sizes are such that vLLM's attention takes them on CPUs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MIXTURE: dict[str, Any] = TEXT | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
}
MROPE: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
}
HALF_MROPE: dict[str, Any] = {
    "rope_parameters": MROPE["rope_parameters"] | {"partial_rotary_factor": 0.5, "mrope_section": [2, 3, 3]}
}

HEAD = ("lm_head",)
TOWER = (*HEAD, r"re:.*vision_tower.*", r"re:.*multi_modal_projector.*")
VISUAL = (*HEAD, r"re:.*visual.*")
EXPERTS = (r"re:.*lm_head", r"re:.*router.*", r"re:.*\.(shared_expert_)?gate$")


@dataclass(frozen=True, slots=True)
class Family:
    """A family.

    Attributes:
        architecture: the model's class in transformers.
        config: what its config is made of, besides the class's defaults.
        stays: the recipe's `ignore`: names in transformers, or "re:" and a regular expression.
        hindrance: why it cannot be run in vLLM on a CPU as it is; empty where it can.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    stays: tuple[str, ...] = HEAD
    hindrance: str = ""


def _text(*architectures: str) -> list[Family]:
    return [Family(architecture) for architecture in architectures]


_WITHOUT_MODEL = 'vLLM asks for names that begin with "model."'
NO_EXPERTS = "no FP8 experts with a scale for each channel on CPUs"
_DEEPSEEK = MIXTURE | {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
}
# What vLLM reads of LFM's configs, and transformers 5 has under other names.
_SHORT_CONVOLUTION = {
    "conv_dim": 128,
    "block_dim": 128,
    "block_multiple_of": 32,
    "block_auto_adjust_ff_dim": False,
    "block_ffn_dim_multiplier": 1.0,
}
_HYBRID = {
    "mamba_n_heads": 8,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_d_ssm": 256,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}

FAMILIES = (
    *_text(
        *("LlamaForCausalLM", "MistralForCausalLM", "Ministral3ForCausalLM", "Qwen2ForCausalLM"),
        *("Qwen3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
        *("GraniteForCausalLM", "SmolLM3ForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        *("Phi3ForCausalLM", "PhiForCausalLM", "CohereForCausalLM", "Cohere2ForCausalLM"),
        *("Exaone4ForCausalLM", "SeedOssForCausalLM", "Starcoder2ForCausalLM", "NemotronForCausalLM"),
        *("GlmForCausalLM", "Glm4ForCausalLM", "StableLmForCausalLM", "HeliumForCausalLM"),
        *("ApertusForCausalLM", "ArceeForCausalLM", "Ernie4_5ForCausalLM", "HunYuanDenseV1ForCausalLM"),
        *("OlmoForCausalLM", "NanoChatForCausalLM"),
    ),
    Family("GPTNeoXForCausalLM", TEXT, (*HEAD, "embed_out")),
    Family(
        "Gemma3nForCausalLM",
        TEXT
        | {
            "intermediate_size": [192, 192],
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
        },
        (*HEAD, r"re:.*altup.*", r"re:.*per_layer_model_projection"),
    ),
    Family("Gemma4ForCausalLM", TEXT, (*HEAD, r"re:.*per_layer_model_projection")),
    Family(
        "Gemma4ForCausalLM",
        MIXTURE | {"enable_moe_block": True, "top_k_experts": 4},
        (*EXPERTS, r"re:.*per_layer_model_projection"),
        NO_EXPERTS,
    ),
    Family(
        "Lfm2ForCausalLM",
        TEXT | {"layer_types": ["conv", "full_attention"], **_SHORT_CONVOLUTION},
    ),
    Family("FalconH1ForCausalLM", TEXT | _HYBRID),
    Family("BambaForCausalLM", TEXT | _HYBRID | {"attn_layer_indices": [1]}, HEAD, "vLLM has no such model"),
    Family("Qwen3_5ForCausalLM", TEXT | _LINEAR_ATTENTION, (*HEAD, r"re:.*in_proj_[ab]$")),
    # Mixtures of experts.
    Family("MixtralForCausalLM", MIXTURE, EXPERTS, NO_EXPERTS),
    Family("Qwen2MoeForCausalLM", MIXTURE, EXPERTS, NO_EXPERTS),
    Family("Qwen3MoeForCausalLM", MIXTURE, EXPERTS, NO_EXPERTS),
    Family("Qwen3NextForCausalLM", MIXTURE | _LINEAR_ATTENTION, (*EXPERTS, r"re:.*in_proj_ba$"), NO_EXPERTS),
    Family("Glm4MoeForCausalLM", _DEEPSEEK, EXPERTS, NO_EXPERTS),
    Family("GraniteMoeForCausalLM", MIXTURE, EXPERTS, NO_EXPERTS),
    Family("GraniteMoeSharedForCausalLM", MIXTURE | {"shared_intermediate_size": 64}, EXPERTS, NO_EXPERTS),
    Family(
        "GraniteMoeHybridForCausalLM",
        MIXTURE | _HYBRID | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 64},
        EXPERTS,
        NO_EXPERTS,
    ),
    Family("OlmoeForCausalLM", MIXTURE, EXPERTS, NO_EXPERTS),
    Family("DiffLlamaForCausalLM", hindrance="vLLM has no such model"),
    Family("PhimoeForCausalLM", MIXTURE, EXPERTS, f"{NO_EXPERTS}; another size of them in vLLM"),
    Family(
        "Llama4ForCausalLM",
        MIXTURE | {"intermediate_size_mlp": 192, "num_experts_per_tok": 1},
        EXPERTS,
        NO_EXPERTS,
    ),
    Family("DeepseekV2ForCausalLM", _DEEPSEEK, EXPERTS, NO_EXPERTS),
    Family(
        "DeepseekV3ForCausalLM",
        _DEEPSEEK | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
        EXPERTS,
        NO_EXPERTS,
    ),
    Family("Ernie4_5_MoeForCausalLM", MIXTURE | {"moe_num_experts": 4, "moe_k": 4}, EXPERTS, NO_EXPERTS),
    Family(
        "Lfm2MoeForCausalLM",
        MIXTURE
        | {
            "layer_types": ["conv", "full_attention"],
            **_SHORT_CONVOLUTION,
            "num_dense_layers": 1,
        },
        EXPERTS,
        NO_EXPERTS,
    ),
    Family(
        "JambaForCausalLM",
        MIXTURE | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 16},
        (*EXPERTS, r"re:.*mamba.*"),
        f"{NO_EXPERTS}, nor a selective scan",
    ),
    # Pictures and sound.
    Family(
        "Gemma3ForConditionalGeneration",
        {"text_config": TEXT, "vision_config": VISION | {"vision_use_head": False}, "mm_tokens_per_image": 4},
        TOWER,
    ),
    Family(
        "Gemma3nForConditionalGeneration",
        {
            "text_config": TEXT
            | {
                "intermediate_size": [192, 192],
                "layer_types": ["sliding_attention", "full_attention"],
                "num_kv_shared_layers": 0,
            }
        },
        (
            *TOWER,
            r"re:.*altup.*",
            r"re:.*per_layer_model_projection",
            r"re:.*audio_tower.*",
            r"re:.*embed_(vision|audio).*",
        ),
        "its tower needs the library timm",
    ),
    Family(
        "Gemma4ForConditionalGeneration",
        {"text_config": TEXT, "vision_config": VISION, "audio_config": None},
        (*TOWER, r"re:.*per_layer_model_projection", r"re:.*audio_tower.*", r"re:.*embed_(vision|audio).*"),
    ),
    Family(
        "Qwen2VLForConditionalGeneration",
        {"text_config": TEXT | MROPE, "vision_config": QWEN_VISION | {"hidden_size": 128}},
        VISUAL,
    ),
    Family(
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": TEXT | MROPE, "vision_config": QWEN_VISION},
        VISUAL,
    ),
    Family(
        "Qwen3VLForConditionalGeneration",
        {"text_config": TEXT | MROPE, "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]}},
        VISUAL,
    ),
    Family(
        "Qwen3VLMoeForConditionalGeneration",
        {
            "text_config": MIXTURE | MROPE | {"norm_topk_prob": True},
            "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]},
        },
        (*VISUAL, r"re:.*\.(shared_expert_)?gate$"),
        NO_EXPERTS,
    ),
    Family(
        "Qwen3_5ForConditionalGeneration",
        {"text_config": TEXT | _LINEAR_ATTENTION, "vision_config": QWEN_VISION},
        (*VISUAL, r"re:.*in_proj_[ab]$"),
    ),
    Family(
        "Qwen3_5MoeForConditionalGeneration",
        {
            "text_config": MIXTURE | _LINEAR_ATTENTION | {"shared_expert_intermediate_size": 64},
            "vision_config": QWEN_VISION,
        },
        (*VISUAL, r"re:.*in_proj_[ab]$", r"re:.*\.(shared_expert_)?gate$"),
        NO_EXPERTS,
    ),
    Family(
        "Mistral3ForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "mistral"},
            "vision_config": VISION | {"model_type": "pixtral", "head_dim": 32},
        },
        TOWER,
    ),
    Family(
        "LlavaForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "llama"},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
        },
        TOWER,
    ),
    Family(
        "LlavaForConditionalGeneration",  # Pixtral, as transformers has it.
        {
            "text_config": TEXT | {"model_type": "mistral"},
            "vision_config": VISION | {"model_type": "pixtral", "head_dim": 32},
        },
        TOWER,
    ),
    Family(
        "LlavaNextForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "llama"},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
        },
        TOWER,
    ),
    Family(
        "LlavaOnevisionForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "qwen2"},
            "vision_config": VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        },
        TOWER,
    ),
    Family(
        "InternVLForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "qwen2"},
            "vision_config": VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
        },
        TOWER,
    ),
    Family(
        "Idefics3ForConditionalGeneration",
        {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION},
        (*HEAD, r"re:.*vision_model.*", r"re:.*connector.*"),
    ),
    Family(
        "SmolVLMForConditionalGeneration",
        {"text_config": TEXT | {"model_type": "llama"}, "vision_config": VISION},
        (*HEAD, r"re:.*vision_model.*", r"re:.*connector.*"),
    ),
    Family(
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "gemma"},
            "vision_config": VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        },
        TOWER,
    ),
    Family(
        "AyaVisionForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "cohere2"},
            "vision_config": VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        },
        TOWER,
        "vLLM asks for its image processor",
    ),
    Family(
        "Lfm2VlForConditionalGeneration",
        {
            "text_config": TEXT
            | {
                "model_type": "lfm2",
                "layer_types": ["conv", "full_attention"],
                **_SHORT_CONVOLUTION,
            },
            "vision_config": VISION | {"vision_use_head": False},
        },
        TOWER,
    ),
    Family(
        "Glm4vForConditionalGeneration",
        {
            "text_config": TEXT | HALF_MROPE,
            "vision_config": QWEN_VISION
            | {"hidden_size": 64, "num_heads": 2, "out_hidden_size": 128, "image_size": 28},
        },
        VISUAL,
    ),
    Family(
        "MllamaForConditionalGeneration",
        {
            "text_config": TEXT | {"cross_attention_layers": [1]},
            "vision_config": VISION
            | {
                "supported_aspect_ratios": [[1, 1]],
                "intermediate_layers_indices": [0],
                "num_global_layers": 1,
                "attention_heads": 2,
                "max_num_tiles": 1,
                "vision_output_dim": 128,
            },
        },
        (*HEAD, r"re:.*vision_model.*", r"re:.*multi_modal_projector.*"),
        "vLLM has no such model",
    ),
    Family(
        "Llama4ForConditionalGeneration",
        {
            "text_config": MIXTURE | {"intermediate_size_mlp": 192, "num_experts_per_tok": 1},
            "vision_config": VISION,
        },
        (*EXPERTS, r"re:.*vision_model.*", r"re:.*multi_modal_projector.*"),
        NO_EXPERTS,
    ),
    Family(
        "Qwen2AudioForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "qwen2"},
            "audio_config": {
                "d_model": 64,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 96,
            },
        },
        (*HEAD, r"re:.*audio_tower.*", r"re:.*multi_modal_projector.*"),
    ),
    Family(
        "VoxtralForConditionalGeneration",
        {
            "text_config": TEXT | {"model_type": "llama"},
            "audio_config": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 96,
            },
        },
        (*HEAD, r"re:.*audio_tower.*", r"re:.*multi_modal_projector.*"),
        "vLLM takes it in Mistral's own format",
    ),
    # What embeds, classifies and judges.
    Family("LlamaForSequenceClassification", TEXT, ("score",)),
    Family("Qwen2ForSequenceClassification", TEXT, ("score",)),
    Family("Qwen3ForSequenceClassification", TEXT, ("score",)),
    Family("LlamaModel", TEXT, (), _WITHOUT_MODEL),
    Family("MistralModel", TEXT, (), _WITHOUT_MODEL),
    Family("Qwen2Model", TEXT, (), _WITHOUT_MODEL),
    Family("Qwen3Model", TEXT, ()),
    Family("Gemma3TextModel", TEXT, ()),
    Family("BertModel", TEXT, ("pooler.dense",)),
    Family("RobertaModel", TEXT, ("pooler.dense",)),
    Family("XLMRobertaForSequenceClassification", TEXT, (r"re:classifier.*",)),
    Family("ModernBertModel", TEXT, ()),
)
