"""Runs a model's Jinja chat template: sandboxed, with a bound on its work and on what it makes.

The template comes with the model file, so it may be hostile or broken; whatever it does ends in text or in a TwdError.
"""

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from twd.engine import template_bounds as bounds
from twd.wire.failures import FailureCode, TwdError

MAX_SOURCE = 1 << 20
_HARMLESS_FILTERS = (
    "abs attr capitalize count d default dictsort e escape first float groupby int items last length list lower map "
    "max min reject rejectattr reverse safe select selectattr sort title trim truncate unique upper wordcount"
)
_HARMLESS_GLOBALS = ("dict", "joiner", "namespace", "range")
_WIDE_TIME_FORMAT = re.compile(r"\d{3}")


class TemplateRefusal(Exception):
    """The template called `raise_exception`: it does not accept this conversation."""


def loop_step() -> None:
    """Called in every turn of a loop, because the environment counts calls."""


def concatenate(*parts: Any) -> str:
    """What `~` does, within bounds."""
    return bounds.bounded_join(str(bounds.writable(part)) for part in parts)


def _raise_exception(message: Any = "") -> None:
    raise TemplateRefusal(str(bounds.writable(message))[:500])


class _Generation(Extension):
    """Trainers' `{% generation %}` marks what the assistant wrote; here it is only its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounded(NodeTransformer):
    """Makes loops and `~` call functions of this module, so that they count against the allowance."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_own_call("loop_step", []), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _own_call("concatenate", node.nodes)


def _own_call(name: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.ImportedName(f"{__name__}.{name}"), args, [], None, None)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(bounds.bounded_join)

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=bounds.writable)
        self.filters = {name: FILTERS[name] for name in _HARMLESS_FILTERS.split()} | {
            "join": jinja2.pass_eval_context(bounds.join),
            "replace": jinja2.pass_eval_context(bounds.replace),
            "indent": bounds.indent,
            "format": bounds.format_percent,
            "string": bounds.string,
            "tojson": bounds.tojson,
        }
        self.globals = {name: self.globals[name] for name in _HARMLESS_GLOBALS} | {"raise_exception": _raise_exception}

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        bounds.allowance.get().step()
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            if method.__name__ == "join":
                return bounds.join(context.eval_ctx, args[0], owner)
            bounds.check_text_call(owner, method.__name__, (*args, kwargs))
        elif isinstance(owner, int) and method.__name__ == "to_bytes":
            raise bounds.TooMuch("it calls to_bytes()")
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        bounds.check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)


class SandboxedTemplate:
    """A compiled chat template. `words` are the strings and attribute names that it mentions itself."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        if len(source) > MAX_SOURCE:
            raise TwdError(FailureCode.MODEL_LOAD, f"The model's chat template is longer than {MAX_SOURCE} characters.")
        environment = _Environment()
        try:
            tree = environment.parse(source)
            constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
            self.words = frozenset(constants | {node.attr for node in tree.find_all(nodes.Getattr)})
            self._template = environment.from_string(_Bounded().visit(tree))
        except jinja2.TemplateSyntaxError as error:
            message = f"The model's chat template is broken in line {error.lineno}: {error.message}"
            raise TwdError(FailureCode.MODEL_LOAD, message) from error
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise TwdError(FailureCode.MODEL_LOAD, f"The model's chat template does not compile: {error}") from error

    def render(self, variables: Mapping[str, Any], now: datetime) -> str:
        """The text that the template makes; raises TwdError where it refuses, fails or goes over a bound."""

        def strftime_now(pattern: str) -> str:
            if _WIDE_TIME_FORMAT.search(pattern):
                raise bounds.TooMuch("it formats the time with a huge width")
            return now.strftime(pattern)

        token = bounds.allowance.set(bounds.Allowance(self._clock))
        try:
            return self._template.render({**variables, "strftime_now": strftime_now})
        except TemplateRefusal as error:
            raise _failure(f"refuses this conversation: {error}") from error
        except bounds.TooMuch as error:
            raise _failure(f"does too much: {error}.") from error
        except jinja2.exceptions.SecurityError as error:
            raise _failure(f"does what it must not: {error}") from error
        except Exception as error:
            raise _failure(f"fails on this conversation: {type(error).__name__}: {error}") from error
        finally:
            bounds.allowance.reset(token)


def _failure(what: str) -> TwdError:
    return TwdError(FailureCode.BAD_REQUEST, f"The model's chat template {what}", "messages")
