"""Runs a model's Jinja chat template: sandboxed, with a bound on its work and on what it makes.

The template comes with the model file, so it may be hostile or broken; whatever it does ends in text or in a TwdError.
"""

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from twd.chat import template_bounds as bounds
from twd.chat.template_allowance import RenderBudget, RenderBudgetExceeded, allowance, counted, made, made_with_items
from twd.wire.failures import FailureCode, TwdError

MAX_SOURCE = 1 << 20
_PART_BYTES = 16
_BLOCK_PARTS = 64
_ARGUMENT_BYTES, _NAMED_BYTES = 64, 512
"""Those of a call, which each frame on the way to a macro holds anew, as long as it runs."""
_GROWING = ("append", "pop")
"""Templates of Kimi keep lists with these, as llama.cpp's own reader of templates lets them."""
_HARMLESS_FILTERS = (
    "abs attr capitalize count d default dictsort e escape first float groupby int items last length list lower map "
    "max min reject rejectattr reverse safe select selectattr sort title trim truncate unique upper wordcount"
)
_HARMLESS_GLOBALS = ("dict", "joiner", "namespace", "range")
_WIDE_TIME_FORMAT = re.compile(r"\d{3}")


class TemplateRefusal(Exception):
    """The template called `raise_exception`: it does not accept this conversation."""


def turn(parts: int) -> bool:
    """Called in every turn of a loop and of a macro; `parts` are the texts that it may add to what is gathered."""
    own = allowance.get()
    own.step()
    own.charge(_PART_BYTES * parts)
    return True


def concatenate(*parts: Any) -> str:
    """Return what `~` does, within the limits."""
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
    """Makes what repeats or keeps something call functions of this module, which count it against the allowance."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _own_call("counted", [cast(nodes.Expr, node.iter)])
        if node.test is not None:
            node.test = nodes.And(_own_call("turn", [nodes.Const(0)]), node.test)
        node.body.insert(0, _turn_of(node))
        return node

    def visit_Macro(self, node: nodes.Macro) -> list[nodes.Node]:  # noqa: N802
        return self._block(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> list[nodes.Node]:  # noqa: N802
        return self._block(node)

    def _block(self, node: nodes.Macro | nodes.CallBlock) -> list[nodes.Node]:
        """One counts where it is made, too: it may be kept."""
        self.generic_visit(node)
        node.body.insert(0, _turn_of(node))
        return [nodes.ExprStmt(_own_call("turn", [nodes.Const(_BLOCK_PARTS)]), lineno=node.lineno), node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _own_call("concatenate", node.nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._made(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return self._made(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self._made(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            return self._made(node)
        self.generic_visit(node)
        return node

    def _made(self, node: nodes.Expr) -> nodes.Call:
        self.generic_visit(node)
        return _own_call("made", [node])


def _turn_of(node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.ExprStmt:
    parts = sum(1 for part in node.body for _ in part.find_all(nodes.TemplateData))
    return nodes.ExprStmt(_own_call("turn", [nodes.Const(parts)]), lineno=node.lineno)


def _own_call(name: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.ImportedName(f"{__name__}.{name}"), args, [], None, None)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(SandboxedEnvironment.default_unop_table)
    concat = staticmethod(bounds.bounded_join)

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=bounds.written)
        filters = {name: FILTERS[name] for name in _HARMLESS_FILTERS.split()} | {
            "join": jinja2.pass_eval_context(bounds.join),
            "replace": jinja2.pass_eval_context(bounds.replace),
            "indent": bounds.indent,
            "format": bounds.format_percent,
            "string": bounds.string,
            "tojson": bounds.tojson,
        }
        self.filters = {name: bounds.as_filter(name, work) for name, work in filters.items()}
        self.globals = {name: self.globals[name] for name in _HARMLESS_GLOBALS} | {"raise_exception": _raise_exception}

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        allowance.get().step()
        allowance.get().charge(_ARGUMENT_BYTES * len(args) + _NAMED_BYTES * len(kwargs))
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            if method.__name__ == "join":
                return made(bounds.join(context.eval_ctx, args[0], owner))
            bounds.check_text_call(owner, method.__name__, (*args, kwargs))
        elif isinstance(owner, int) and method.__name__ == "to_bytes":
            raise RenderBudgetExceeded("it calls to_bytes()")
        elif getattr(method, "__name__", "") == "fromkeys":
            raise RenderBudgetExceeded("it calls fromkeys()")
        return made_with_items(super().call(context, obj, *map(counted, args), **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Lists may grow: they are made for this rendering alone, and what goes in was counted."""
        return super().is_safe_attribute(obj, attr, value) or (type(obj) is list and attr in _GROWING)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        bounds.check_operation(operator, left, right)
        return made(super().call_binop(context, operator, left, right))

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return made(super().call_unop(context, operator, arg))


class SandboxedTemplate:
    """A compiled chat template. `words` are the strings and attribute names that it mentions itself, `names` those of
    its variables."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        if len(source) > MAX_SOURCE:
            raise TwdError(FailureCode.MODEL_LOAD, f"The model's chat template is longer than {MAX_SOURCE} characters.")
        environment = _Environment()
        try:
            tree = environment.parse(source)
            constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
            self.words = frozenset(constants | {node.attr for node in tree.find_all(nodes.Getattr)})
            self.names = frozenset(node.name for node in tree.find_all(nodes.Name))
            self._template = environment.from_string(_Bounded().visit(tree))
        except jinja2.TemplateSyntaxError as error:
            message = f"The model's chat template is broken in line {error.lineno}: {error.message}"
            raise TwdError(FailureCode.MODEL_LOAD, message) from error
        except (jinja2.TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise TwdError(FailureCode.MODEL_LOAD, f"The model's chat template does not compile: {error}") from error

    def render(self, variables: Mapping[str, Any], now: datetime) -> str:
        """Return the rendered text; raises TwdError if the template refuses, fails or exceeds a limit."""

        def strftime_now(pattern: str) -> str:
            if _WIDE_TIME_FORMAT.search(pattern):
                raise RenderBudgetExceeded("it formats the time with a huge width")
            return now.strftime(pattern)

        token = allowance.set(RenderBudget(self._clock))
        try:
            return self._template.render({**variables, "strftime_now": strftime_now})
        except TemplateRefusal as error:
            raise _failure(f"refuses this conversation: {error}") from error
        except RenderBudgetExceeded as error:
            raise _failure(f"does too much: {error}.") from error
        except jinja2.exceptions.SecurityError as error:
            raise _failure(f"does what it must not: {error}") from error
        except Exception as error:
            raise _failure(f"fails on this conversation: {type(error).__name__}: {error}") from error
        finally:
            allowance.reset(token)


def _failure(what: str) -> TwdError:
    return TwdError(FailureCode.BAD_REQUEST, f"The model's chat template {what}", "messages")
