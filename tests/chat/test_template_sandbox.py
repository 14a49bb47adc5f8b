"""The sandbox: hostile and broken templates end in a typed error, soon; honest ones render as their authors expect."""

import tracemalloc
from datetime import UTC, datetime
from itertools import count

import pytest

from twd.chat import template_allowance, template_bounds
from twd.chat.template_sandbox import MAX_SOURCE, SandboxedTemplate
from twd.wire.failures import FailureCode, TwdError

NOW = datetime(2031, 5, 17, 9, 30, tzinfo=UTC)


def render(source: str, **variables: object) -> str:
    return SandboxedTemplate(source).render(variables, NOW)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for x in [1, 2] %}\n  {{ x }}\n{% endfor %}\nend", "  1\n  2\nend"),
        ("{% for x in range(9) %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "01"),
        ("{% generation %}said{% endgeneration %}!", "said!"),
        ("{{ strftime_now('%d %b %Y') }}", "17 May 2031"),
        ("{{ {'a': 'é<b>', 'n': none} | tojson }}", '{"a": "é<b>", "n": null}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% set ns = namespace(n=0) %}{% for x in 'abc' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') ~ m(2) ~ 'c' }}", "[a][2]c"),
        ("{{ 'a,b'.split(',') | join('-') }} {{ ', '.join(['x', 'y']) }}", "a-b x, y"),
        ("{{ '%s=%d' % ('a', 3) }} {{ '%s'|format('b') }} {{ '{}:{:>3}'.format('c', 4) }}", "a=3 b c:  4"),
        ("{{ '%(n)s of %(n)s **(%(m)5.1f%%)**' % {'n': 'a', 'm': 1.25} }}", "a of a **(  1.2%)**"),
        ("{{ '{{[{a[b]:>3}]}}'.format(a={'b': 12345}) }}", "{[12345]}"),
        ("{{ 'aXb' | replace('X', '-') }}{{ 'aXb'.replace('X', '+') }}", "a-ba+b"),
        ("{{ missing is defined }} {{ thing.missing or 'none' }}", "False none"),
        ("{{ {'a': 1}.items() | list }} {{ 'x' * 3 }} {{ 2 ** 5 }}", "[('a', 1)] xxx 32"),
        ("{{ 'one\ntwo' | indent(2) }}", "one\n  two"),
        ("{% set x = [1] %}{% do x.append(2) %}{% set _ = x.append(3) %}{{ x.pop(0) }}{{ x }}", "1[2, 3]"),
        ("{% for x in 'abcb' if x == 'b' %}{{ loop.index }}{{ loop.length }}{% endfor %}", "1222"),
        ("{% set a, b = 1, (2, 3) %}{{ [a, b, {'c': a}][1:] }}{{ 'abc'[::-1] }}", "[(2, 3), {'c': 1}]cba"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", "<in>"),
        (
            "{{ [3, 1, 2] | sort | map('string') | list }}{{ 'ab' | list }}{{ -(1 - 3) // 2 }}",
            "['1', '2', '3']['a', 'b']1",
        ),
        ("{% for k, v in thing | items %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}", "1ab"),
    ],
)
def test_honest_templates(source: str, text: str) -> None:
    assert render(source, thing={"a": "b"}) == text


GROW = "{%% set ns = namespace(x='0123456789') %%}{%% for i in range(60) %%}%s{%% endfor %%}{{ ns.x }}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * ['x'] }}",
        "{{ 9 ** 99999 }}",
        GROW % "{% set ns.x = ns.x + ns.x %}",
        GROW % "{% set ns.x = ns.x ~ ns.x %}",
        GROW % "{% set ns.x = [ns.x, ns.x] %}",
        GROW % "{% set ns.x = {'a': ns.x, 'b': ns.x} %}",
        GROW % "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        GROW % "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        GROW % "{% set ns.x = ns.x.replace('0', ns.x) %}",
        GROW % "{% set ns.x = ns.x | replace('0', ns.x) %}",
        GROW % "{% set ns.x = [ns.x, ns.x] | join %}",
        GROW % "{% set ns.x = ns.x.join('abc') %}",
        GROW % "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
        (GROW % "{% set ns.x = [ns.x, ns.x] %}").replace("{{ ns.x }}", "{{ ns.x | tojson }}"),
        (GROW % "{% set ns.x = [ns.x, ns.x] %}").replace("{{ ns.x }}", "{{ ns.x | string | length }}"),
        (GROW % "{% set ns.x = [ns.x, ns.x] %}").replace("{{ ns.x }}", "{{ {'a': ns.x}.values() }}"),
        (GROW % "{% set ns.x = [ns.x, ns.x] %}").replace("{{ ns.x }}", "{{ ns }}"),
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ ('%(a)100000000d' % {'a': 1}) | length }}",
        "{{ ('%(a(b))100000000d' % {'a(b)': 1}) | length }}",
        "{{ '%(a)100000000d' | format(a=1) | length }}",
        "{{ (('%(a)s' * 1000) % {'a': 'x' * 1000}) | length }}",
        "{{ '{a[}]:100000000}'.format(a={'}': 1}) | length }}",
        "{{ ('x'.encode() * 100000000) | length }}",
        "{{ (1).to_bytes(100000000, 'little') | length }}",
        "{{ ([1, 2] * 1000) | tojson(separators=('x' * 1000, ':')) | length }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{{ 'x'.translate({120: 'y' * 1000}) }}",
        "{{ strftime_now('%1000000000Y') }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% do thing.extend([1]) %}",
        "{% do thing.clear() %}",
        "{% do {}.update(a=1) %}",
        "{% include 'other' %}",
        "{{ raise_exception('no') }}",
        "{{ 'a' + 1 }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
    ],
)
def test_hostile_and_broken_templates_are_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_bounds, "MAX_CHARACTERS", 200_000)
    monkeypatch.setattr(template_allowance, "MAX_STEPS", 20_000)
    with pytest.raises(TwdError) as error:
        render(source, thing=[])
    assert error.value.code is FailureCode.BAD_REQUEST


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ x",
        "{% nonsense %}",
        "{{ x | nonsense }}",
        "{{ x | center(9) }}",
        "{{" + "(" * 5000 + "}}",
        " " * (MAX_SOURCE + 1),
    ],
)
def test_what_does_not_compile_fails_the_load(source: str) -> None:
    with pytest.raises(TwdError) as error:
        SandboxedTemplate(source)
    assert error.value.code is FailureCode.MODEL_LOAD


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(TwdError, match="broken in line 3"):
        SandboxedTemplate("a\nb\n{% if %}")


def test_a_refusal_carries_the_templates_words() -> None:
    with pytest.raises(TwdError, match="refuses this conversation: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_slow_template_is_stopped_by_the_clock() -> None:
    seconds = count()
    template = SandboxedTemplate("{% for i in range(99999) %}{% endfor %}", clock=lambda: float(next(seconds)))
    with pytest.raises(TwdError, match="takes longer than"):
        template.render({}, NOW)


def test_words_are_what_the_template_itself_mentions() -> None:
    words = SandboxedTemplate("{% if m.role == 'user' %}{{ m['content'] }}{% endif %}").words
    assert {"role", "user", "content"} <= words


@pytest.mark.parametrize(
    "source",
    ["{{ strftime_now.__globals__ }}", "{{ '{0.__class__}'.format('') }}", "{{ thing | attr('__class__') }}"],
)
def test_the_inside_of_python_stays_hidden(source: str) -> None:
    assert render(source, thing=[]) == ""


KEEP = (
    "{%% set ns = namespace(kept=[], n=0) %%}{%% set big = 'x' * 9000 %%}{%% for i in range(9000) %%}%s{%% endfor %%}"
)
CALLING = (
    "{%% set d = {" + ", ".join(f"'k{n}': 1" for n in range(900)) + "} %%}"
    "{%% macro m() %%}{{ kwargs | length }}{{ varargs | length }}{{ m(%s) }}{%% endmacro %%}{{ m() }}"
)
GATHER = "{%% macro m() %%}{%% for i in range(9000) %%}%s{%% endfor %%}{%% endmacro %%}{%% set text = m() %%}"


@pytest.mark.parametrize(
    "source",
    [
        KEEP % "{% set ns.kept = [ns.kept, big + 'y'] %}",
        KEEP % "{% set ns.kept = [ns.kept, big ~ i] %}",
        KEEP % "{% set ns.kept = [ns.kept, big[1:]] %}",
        KEEP % "{% set ns.kept = [ns.kept, big | upper] %}",
        KEEP % "{% set ns.kept = [ns.kept, big.lower()] %}",
        KEEP % "{% set ns.kept = [ns.kept, '%sy' % big] %}",
        KEEP % "{% set ns.kept = [ns.kept, big.replace('x', 'y')] %}",
        KEEP % "{% set ns.kept = [ns.kept, big | replace('x', 'y', 1)] %}",
        KEEP % "{% set ns.kept = [ns.kept, [big, i] | join] %}",
        KEEP % "{% set ns.kept = [ns.kept, big | list] %}",
        KEEP % "{% set ns.kept = [ns.kept, range(900) | list] %}",
        KEEP % "{% set ns.kept = [ns.kept, range(900) | map('string') | list] %}",
        KEEP % "{% set ns.kept = [ns.kept, (big ~ ' ab' * 900).split(' ')] %}",
        KEEP % ("{% set ns.kept = [ns.kept, [" + "i, " * 900 + "]] %}"),
        KEEP % ("{% set ns.kept = (ns.kept, (" + "i, " * 900 + ")) %}"),
        KEEP % ("{% set ns.kept = {1: ns.kept, " + ", ".join(f"{n}: i" for n in range(2, 900)) + "} %}"),
        KEEP % ("{% set ns.kept = [ns.kept, " + "dict(a=i), " * 90 + "namespace(b=i)] %}"),
        KEEP % ("{% set ns.kept = [ns.kept, " + "2 ** 2000 - i, -(2 ** 2000), " * 90 + "] %}"),
        KEEP % "{% set y %}{{ big }}{{ i }}{% endset %}{% set ns.kept = [ns.kept, y] %}",
        KEEP % "{% set y %}{% filter upper %}{{ big }}{% endfilter %}{% endset %}{% set ns.kept = [ns.kept, y] %}",
        KEEP % "{% macro m() %}{{ big }}{{ i }}{% endmacro %}{% set ns.kept = [ns.kept, m()] %}",
        KEEP % ("{% macro m() %}{% endmacro %}" * 9 + "{% set ns.kept = [ns.kept, m] %}"),
        KEEP % "{% for j in range(90) %}{% do ns.kept.append(i * 1000 + j) %}{% endfor %}",
        KEEP % "{% do ns.kept.append(big | reverse) %}",
        KEEP % "{% do ns.kept.append(big.format()) %}{% do ns.kept.append('{}'.format(big)) %}",
        GATHER % ("{{ i }}" * 90),
        GATHER % ("a{% if i %}b{% endif %}" * 90),
        GATHER % "{{ '' }}{% for j in range(90) %}{{ '' }}{% endfor %}",
        CALLING % "**d",
        CALLING % "*d",
        "{% for a in ('\u5b57' * 150000) | list %}{% endfor %}",
        "{% for a in ('\u5b57' * 150000) | sort %}{% endfor %}",
        "{{ ('\u5b57' * 150000) | join | length }}",
        "{{ ('\u5b57' * 150000) | select | list | length }}",
        "{{ ('ab' * 150000) | map('upper') | list | length }}",
        "{{ {}.fromkeys('\u5b57' * 150000) }}",
        "{% for a in 'ab' * 90 %}{% for b in ('ab' * 90000) | map('upper') %}{{ loop.length }}{% endfor %}{% endfor %}",
    ],
)
def test_what_a_template_keeps_stays_within_a_bound(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_allowance, "MAX_BYTES", 1_000_000)
    template = SandboxedTemplate(source, clock=lambda: 0.0)
    tracemalloc.start()
    try:
        with pytest.raises(TwdError, match=r"of texts and lists in all|calls fromkeys") as error:
            template.render({}, NOW)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1_000_000
    finally:
        tracemalloc.stop()
    assert error.value.code is FailureCode.BAD_REQUEST


def test_turns_that_a_loop_leaves_out_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_allowance, "MAX_STEPS", 20_000)
    with pytest.raises(TwdError, match="steps"):
        render("{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}")
