"""Chat templates that want more than their share of time or memory; some are caught by the accounting, some are not."""

from collections.abc import Iterator

SHARED = (
    "{%% set ns = namespace(a=[1], b=[1]) %%}{%% for i in range(40) %%}"
    "{%% set ns.a = [ns.a, ns.a] %%}{%% set ns.b = [ns.b, ns.b] %%}{%% endfor %%}%s"
)
"""Two values that are small in memory and huge to whoever goes through them."""
TUPLES = SHARED.replace("[1]", "(1,)").replace("[ns.a, ns.a]", "(ns.a, ns.a)").replace("[ns.b, ns.b]", "(ns.b, ns.b)")
MAPS = SHARED.replace("[ns.a, ns.a]", "{1: ns.a, 2: ns.a}").replace("[ns.b, ns.b]", "{1: ns.b, 2: ns.b}")
GOING_THROUGH = (
    "{{ ns.a == ns.b }}",
    "{{ ns.a != ns.b }}",
    "{{ ns.a < ns.b }}",
    "{{ ns.a >= ns.b }}",
    "{{ ns.a in [ns.b] }}",
    "{{ ns.a not in [0, ns.b] }}",
    "{{ [ns.a, ns.b] | unique | list | length }}",
    "{{ [ns.a, ns.b] | sort | length }}",
    "{{ [ns.a, ns.b] | min | length }}",
    "{{ [ns.a, ns.b] | max | length }}",
    "{{ [ns.a] | select('equalto', ns.b) | list | length }}",
    "{{ [ns.a] | reject('==', ns.b) | list | length }}",
    "{{ [ns.a] | select('in', [ns.b]) | list | length }}",
    "{{ [{'k': ns.a}, {'k': ns.b}] | sort(attribute='k') | length }}",
    "{{ [{'k': ns.a}, {'k': ns.b}] | groupby('k') | length }}",
    "{{ [{'k': ns.a}, {'k': ns.b}] | selectattr('k', 'equalto', ns.b) | list | length }}",
    "{{ [ns.a].index(ns.b) }}",
    "{{ [ns.a].count(ns.b) }}",
    "{{ {ns.a: 1} | length }}",
    "{{ {1: 2}[ns.a] }}",
    "{{ dict([(ns.a, 1)]) | length }}",
    "{{ {'x': ns.a}.items() == {'x': ns.b}.items() }}",
    "{{ ns.a | string | length }}",
    "{{ ns.a | tojson | length }}",
    "{{ ns.a ~ ns.b }}",
    "{{ '%s' % [ns.a] }}",
    "{{ '{}'.format(ns.a) }}",
    "{{ [ns.a] | join | length }}",
    "{{ ns.a | lower | length }}",
    "{{ ns.a | title | length }}",
    "{{ ns.a | wordcount }}",
    "{{ raise_exception(ns.a) }}",
    "{{ ns.a is eq(ns.b) }}",
    "{{ ns.a is in([ns.b]) }}",
)
KEYS = "{%% set ns = namespace(n=0) %%}{%% set big = 'x' * 9000000 %%}%s"
SORTING = (
    "{{ (range(90000) | map('string') | list | sort(attribute='%s')) | length }}",
    "{{ ([[1]] * 900000) | sort(attribute='0') | length }}",
    "{{ ([big] * 9000) | sort | length }}",
    "{{ ([big] * 9000) | unique | list | length }}",
    "{{ ([big] * 9000) | min | length }}",
    "{{ ([big] * 9000) | map('upper') | list | length }}",
    "{{ ([{'k': big}] * 9000) | sort(attribute='k') | length }}",
    "{{ ([{'k': big}] * 9000) | groupby('k') | length }}",
    "{{ ([{'k': big}] * 9000) | map(attribute='k') | sort | length }}",
    "{{ {1: big} | dictsort(by='value') | length }}",
    "{{ ([big] * 900) | sort(case_sensitive=false) | length }}",
)
SLOW = (
    "{{ big.count('x') }}",
    "{{ big.find('xxxxxxxxy') }}",
    "{{ big.replace('xx', 'y') | length }}",
    "{{ big.split('x') | length }}",
    "{{ big | wordcount }}",
    "{{ big | trim | length }}",
    "{{ big | title | length }}",
    "{{ big | escape | length }}",
    "{{ big | reverse | length }}",
    "{{ big in big }}",
    "{{ big == big ~ '' }}",
    "{{ big | tojson | length }}",
)
LOOPED = "{%% for i in range(1000000) %%}%s{%% endfor %%}"
NESTED = (
    "{{" + "[" * 90 + "]" * 90 + "}}",
    "{{ " + "not " * 5000 + "1 }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ x" + ".a" * 20000 + " }}",
    "{{ 1" + " + 1" * 20000 + " }}",
    "{{ 1" + " == 1" * 20000 + " }}",
    "{{ x" + " | list" * 5000 + " }}",
    "{% if 1 %}" * 400 + "{% endif %}" * 400,
    "{% for a in [1, 2] %}" * 60 + "{% endfor %}" * 60,
    "{% set x %}" * 300 + "{% endset %}" * 300,
    "{{ '" + "x" * 900_000 + "' }}",
    "{# " + "x" * 900_000 + " #}",
    "{{ x }}" * 100_000,
    "{% macro m() %}" * 300 + "{% endmacro %}" * 300,
    "{{ {" + ", ".join(f"{n}: {n}" for n in range(50_000)) + "} }}",
    "{{ 9" + " ** 9" * 20 + " }}",
    "{{ 2 ** 4000 * 2 ** 4000 * 2 ** 4000 }}",
    "{{ (2 ** 4000) | string | length }}",
    "{{ '9' * 4000000 | int }}",
    "{{ ('9' * 4000000) | int }}",
    "{{ ('9' * 400000) | float }}",
    "{{ ('(' * 100000) | int }}",
)


def beyond_the_accounting() -> Iterator[str]:
    """Work done in one step of an interpreter, or by it for each of very many small ones."""
    for shape in (SHARED, TUPLES, MAPS):
        yield from (shape % work for work in GOING_THROUGH)
    yield from (KEYS % work for work in SORTING)
    yield from (KEYS % (LOOPED % work) for work in SLOW)
    yield from (KEYS % work for work in SLOW)
    yield from NESTED
