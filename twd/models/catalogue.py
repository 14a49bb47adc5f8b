"""The catalogue: short names of models that people often want, and where each one lies."""

from typing import Final

CATALOGUE: Final[dict[str, str]] = {
    "llama3.3:70b-q4_k_m": "bartowski/Llama-3.3-70B-Instruct-GGUF:Q4_K_M",
    "llama3.3:70b-q4_k_xl": "unsloth/Llama-3.3-70B-Instruct-GGUF:UD-Q4_K_XL",
    "llama3.1:8b-q4_k_m": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
    "llama3.1:8b-q8_0": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q8_0",
    "qwen3:32b-q4_k_m": "Qwen/Qwen3-32B-GGUF:Q4_K_M",
    "qwen3:8b-q4_k_m": "Qwen/Qwen3-8B-GGUF:Q4_K_M",
    "qwen3:1.7b-q8_0": "Qwen/Qwen3-1.7B-GGUF:Q8_0",
    "deepseek-r1:70b-q4_k_m": "bartowski/DeepSeek-R1-Distill-Llama-70B-GGUF:Q4_K_M",
    "deepseek-r1:8b-q4_k_m": "bartowski/DeepSeek-R1-Distill-Llama-8B-GGUF:Q4_K_M",
    "devstral:24b-q4_k_m": "mistralai/Devstral-Small-2505_gguf/devstralQ4_K_M.gguf",
}
"""Each name and its SPEC on Hugging Face. Sizes and hashes are asked of the hub: they may change there."""
