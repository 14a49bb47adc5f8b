"""Chat templates as their authors write them, in short, and a vocabulary that shows control tokens."""

from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import msgspec

from twd.chat.template import CHATML, PLAIN, ChatTemplate, RenderedPrompt, render_tokens
from twd.wire.job import ChatMessage, Prompt, ToolCall

NOW = datetime(2031, 5, 17, 9, 30, tzinfo=UTC)
Role = Literal["system", "developer", "user", "assistant", "tool"]
LLAMA = """{{- bos_token }}
{%- if tools %}{{- '<|start|>system<|stop|>' ~ (tools | tojson) ~ '<|eot|>' }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- '<|start|>tool<|stop|>\n\n' + (m.content | tojson) + '<|eot|>' }}
    {%- elif m.tool_calls %}
        {%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start|>assistant<|stop|>{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot|>' }}
    {%- else %}
        {{- '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\n\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for m in messages if m.role in ('user', 'assistant') and not m.tool_calls %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '[INST] ' ~ m.content ~ '[/INST]' }}
{%- elif m.tool_calls is defined %}{{ '[TOOL_CALLS] [' }}
    {%- for call in m.tool_calls %}
        {%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
        {{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
    {%- endfor %}{{ ']' ~ eos_token }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' ~ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}
{%- elif m.role == 'assistant' %}{{ ' ' ~ m.content ~ eos_token }}
{%- else %}{{ raise_exception('only user and assistant') }}{% endif %}
{%- endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<turn>' + role + '\n' + m.content | trim + '<end>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"""
DEEPSEEK = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}{{ '<|User|>' + m.content }}{% endif %}
{%- if m.role == 'assistant' and m.content is none %}{% for call in m.tool_calls %}
{{- '<|Call|>' + call.function.name + '\n' + call.function.arguments }}{% endfor %}{% endif %}
{%- if m.role == 'assistant' and m.content is not none %}{{ '<|Assistant|>' + m.content + eos_token }}{% endif %}
{%- endfor %}{{ '<|Assistant|>' }}"""
THINKING = """{% for m in messages %}{% set content = m.content %}
{%- if m.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>' + m.role + '\n' + content.replace('/no_think', '') + '<|im_end|>\n' }}{% endfor %}
{{- '<|im_start|>assistant\n' }}"""
NASTY = """{{ '<' ~ messages[0].content ~ '|im_end|>' }}{% for m in messages %}{{ m.name ~ m.content }}{% endfor %}
{{- '<|' ~ messages[-1].name ~ '|>' ~ (messages[0].content | upper) ~ (messages | tojson) ~ '<|im_end|>' }}
{{- ('<|im_start|>' ~ messages[0].content).replace('x', '') }}"""
CONTROLS = {
    CHATML: ["<|im_start|>", "<|im_end|>", "<s>"],
    PLAIN: ["<s>", "</s>"],
    LLAMA: ["<|begin|>", "<|start|>", "<|stop|>", "<|eot|>"],
    MISTRAL: ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]"],
    GEMMA: ["<bos>", "<turn>", "<end>"],
    DEEPSEEK: ["<|bos|>", "<|User|>", "<|Assistant|>", "<|Call|>", "</s>"],
    THINKING: ["<|im_start|>", "<|im_end|>"],
    NASTY: ["<|im_start|>", "<|im_end|>", "<|im", "end|><", "<|IM_END|>", "§", "im_end|>x"],
}
BOS = {LLAMA: "<|begin|>", MISTRAL: "<s>", GEMMA: "<bos>", DEEPSEEK: "<|bos|>"}


@cache
def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, BOS.get(source, ""), "</s>", CONTROLS[source])


def message(role: Role, content: str = "", **fields: Any) -> ChatMessage:
    return ChatMessage(role=role, content=content, **fields)


def rendered(source: str, *messages: ChatMessage, **prompt: Any) -> RenderedPrompt:
    return template_of(source).render(Prompt(messages=list(messages), **prompt), NOW)


class FakeVocab:
    """Control tokens are negative, other characters their code points; the longest control string wins."""

    def __init__(self, controls: list[str], bos: str = "") -> None:
        self._controls = sorted(controls, key=len, reverse=True)
        self._bos = bos

    def tokenize(self, text: str, *, parse_special: bool, add_bos: bool) -> list[int]:
        tokens = [self.control(self._bos)] if add_bos and self._bos else []
        at = 0
        while at < len(text):
            control = next((c for c in self._controls if parse_special and text.startswith(c, at)), None)
            tokens.append(self.control(control) if control else ord(text[at]))
            at += len(control or "x")
        return tokens

    def control(self, text: str) -> int:
        return -1 - self._controls.index(text)


def control_tokens(source: str, prompt: Prompt) -> list[int]:
    vocab = FakeVocab(CONTROLS[source])
    return [token for token in render_tokens(template_of(source), prompt, vocab.tokenize, NOW) if token < 0]


CALL = ToolCall(id="call_1", name="weather", arguments='{"city": "Örebro"}')
TOOL = msgspec.Raw(b'{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}')
