"""How people name models, and what such a name means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twd.models.catalogue import CATALOGUE
from twd.models.spec import BadSpec, HubFile, HubQuant, OllamaModel, Spec, WebFile, parse_spec
from twd.wire.failures import TwdError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("qwen3:8b-q4_k_m", HubQuant("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("Qwen3:8B-Q4_K_M", HubQuant("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("devstral:24b-q4_k_m", HubFile("mistralai/Devstral-Small-2505_gguf", "devstralQ4_K_M.gguf")),
        ("org/repo/file.gguf", HubFile("org/repo", "file.gguf")),
        ("org/repo/Q4_K_M/a file-00001-of-00002.gguf", HubFile("org/repo", "Q4_K_M/a file-00001-of-00002.gguf")),
        ("org/repo:Q4_K_M", HubQuant("org/repo", "Q4_K_M")),
        ("org/repo", HubQuant("org/repo")),
        ("hf.co/org/repo:Q8_0", HubQuant("org/repo", "Q8_0")),
        ("hf://org/repo/file.gguf", HubFile("org/repo", "file.gguf")),
        ("https://huggingface.co/org/repo/resolve/main/a%20b.gguf?download=true", HubFile("org/repo", "a b.gguf")),
        ("https://huggingface.co/org/repo/blob/v1/x/y.gguf", HubFile("org/repo", "x/y.gguf", "v1")),
        ("https://huggingface.co/org/repo", HubQuant("org/repo")),
        ("https://huggingface.co/org/repo/tree/v2", HubQuant("org/repo", "", "v2")),
        ("http://mirror:8080/org/repo/resolve/main/y.gguf", HubFile("org/repo", "y.gguf")),
        ("ollama://llama3.2", OllamaModel("registry.ollama.ai", "library/llama3.2", "latest")),
        ("ollama://llama3.2:1b", OllamaModel("registry.ollama.ai", "library/llama3.2", "1b")),
        ("ollama://me/model:x", OllamaModel("registry.ollama.ai", "me/model", "x")),
        ("ollama://127.0.0.1:5000/me/model:x", OllamaModel("127.0.0.1:5000", "me/model", "x")),
        ("ollama://[::1]:5000/model:x", OllamaModel("[::1]:5000", "library/model", "x")),
        ("https://example.org/a/m.gguf?x=1", WebFile("https://example.org/a/m.gguf?x=1")),
        ("https://example.org/m.gguf#sha256=" + "A" * 64, WebFile("https://example.org/m.gguf", "a" * 64)),
    ],
)
def test_what_a_spec_means(text: str, meant: Spec) -> None:
    assert parse_spec(text, hub_hosts=("huggingface.co", "hf.co", "mirror:8080")) == meant


def test_a_revision_is_for_repositories() -> None:
    assert parse_spec("org/repo:Q8_0", "refs/pr/1") == HubQuant("org/repo", "Q8_0", "refs/pr/1")
    for text, revision in (("ollama://x", "v1"), ("https://example.org/m.gguf", "v1"), ("a/b", "../x"), ("a/b", "x y")):
        with pytest.raises(BadSpec):
            parse_spec(text, revision)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "org/repo/file.gguf"),
        ("qwen3", "did you mean qwen3:32b-q4_k_m"),
        ("qwen3:8b-q4_k_n", "qwen3:8b-q4_k_m"),
        ("llama", "did you mean llama3.3"),
        ("file.gguf", "give a name"),
        ("org/repo/file.safetensors", "give a name"),
        ("../../x.gguf", "org/repo"),
        ("org/repo/../x.gguf", "lead elsewhere"),
        ("org/repo//x.gguf", "empty parts"),
        ("org/re po:Q4", "org/repo"),
        ("org/repo:Q4 K", "Q4_K_M"),
        ("ftp://example.org/x.gguf", "no ftp://"),
        ("ollama://", "ollama://llama3.2:1b"),
        ("ollama://a/b/c/d/e:x", "ollama://llama3.2:1b"),
        ("https://user:pass@example.org/x.gguf", "passwords"),
        ("https://example.org:port/x.gguf", "ort"),
        ("https://example.org/x.gguf#sha256=12", "sha256=HEX"),
        ("https://huggingface.co/org/repo/raw", "resolve/main"),
        ("https://huggingface.co/org/repo/resolve/main/../../x.gguf", "lead elsewhere"),
    ],
)
def test_what_names_nothing_says_how_to_write_it(text: str, cause: str) -> None:
    with pytest.raises(BadSpec) as refused:
        parse_spec(text)
    assert cause in str(refused.value)


@given(st.text(max_size=60))
def test_no_text_is_a_fault(text: str) -> None:
    for whole in (text, f"a/b/{text}", f"ollama://{text}", f"https://{text}", f"https://hf.co/{text}", f"a/b:{text}"):
        try:
            spec = parse_spec(whole)
        except TwdError:
            continue
        parts = spec.path.split("/") if isinstance(spec, HubFile) else []
        assert ".." not in parts
        assert "" not in parts


def test_the_catalogue_is_made_of_specs() -> None:
    for name, spec in CATALOGUE.items():
        assert parse_spec(name) == parse_spec(spec)
        assert name == name.lower()
