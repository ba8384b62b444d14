"""The model that the demo serves: a tiny Llama without weights, and a tokenizer of a word a token."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

VOCABULARY = 2048
MAX_MODEL_LEN = 4096
BLOCK_TOKENS = 32
"""The CPU backend takes multiples of 32 only, and small blocks show more of the reuse."""

_LAYERS, _KV_HEADS, _HEAD_SIZE, _FLOAT32_BYTES = 4, 2, 64, 4
TOKEN_BYTES = 2 * _LAYERS * _KV_HEADS * _HEAD_SIZE * _FLOAT32_BYTES
"""Keys and values of one token in every layer."""
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
SPECIALS = ("<s>", "</s>", "<unk>", "<system>", "<user>", "<assistant>")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_SIZE,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": MAX_MODEL_LEN,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": SPECIALS.index("<s>"),
    "eos_token_id": SPECIALS.index("</s>"),
    "torch_dtype": "float32",
}
_TOKENIZER_CONFIG = {
    # transformers 5 writes another class by itself, which older releases of vLLM cannot load.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": MAX_MODEL_LEN,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "chat_template": (
        "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s> {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}


def words() -> tuple[str, ...]:
    """The words of the vocabulary. All have four letters: vLLM's tokenizer trips over words that begin other words."""
    syllables = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    pairs = (first + second for first, second in itertools.product(syllables, syllables))
    return tuple(itertools.islice(pairs, VOCABULARY - len(SPECIALS)))


def model_folder() -> Path:
    """Where the model lies in the user's cache: another place once what belongs in it has changed."""
    made_of = json.dumps([_CONFIG, _TOKENIZER_CONFIG, SPECIALS, words()]).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-rightsizer"
    return cache / f"tiny-llama-{hashlib.sha256(made_of).hexdigest()[:10]}"


def write_model(folder: Path) -> None:
    """Write configuration and tokenizer to `folder`, whole or not at all; another writer's finished work stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _write_json(temporary / "config.json", _CONFIG)
        _write_json(temporary / "tokenizer_config.json", _TOKENIZER_CONFIG)
        _tokenizer().save(str(temporary / "tokenizer.json"))
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate((*SPECIALS, *words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


if __name__ == "__main__":
    # What the init container of the demo's pod runs, as others fetch a model there.
    wanted = Path(sys.argv[1])
    if not all((wanted / name).is_file() for name in FILES):
        shutil.rmtree(wanted, ignore_errors=True)
        write_model(wanted)
