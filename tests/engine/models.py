"""Tiny models of several kinds: configurations and a tokenizer, no weights but an adapter's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vllm_rightsizer.demo.model import VOCABULARY, write_model

_WINDOWS = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "sliding_window": 64,
    "query_pre_attn_scalar": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}
_ENCODER = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
_FOUR_BITS = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
_RANK = 8


def write_models(folder: Path) -> None:
    """One folder a model, named as `kinds` starts them."""
    write_model(folder / "llama")
    llama = json.loads((folder / "llama" / "config.json").read_text())
    configs = {
        "gemma": {**llama, **_WINDOWS},
        "draft": {**llama, "num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 256},
        "gptq": {**llama, "quantization_config": _FOUR_BITS},
        "bert": _ENCODER,
    }
    for name, config in configs.items():
        shutil.copytree(folder / "llama", folder / name)
        (folder / name / "config.json").write_text(json.dumps(config))
    _write_adapter(folder / "adapter", llama)


def _write_adapter(folder: Path, base: dict[str, Any]) -> None:
    """A LoRA adapter with random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"peft_type": "LORA", "r": _RANK, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "llama"}))
    random = torch.Generator().manual_seed(0)
    sizes = {"q_proj": base["num_attention_heads"], "v_proj": base["num_key_value_heads"]}
    tensors = {}
    for layer in range(base["num_hidden_layers"]):
        for projection, heads in sizes.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(_RANK, base["hidden_size"], generator=random)
            tensors[f"{name}.lora_B.weight"] = torch.randn(heads * base["head_dim"], _RANK, generator=random)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
