"""The Jinja sandbox for chat templates, with a budget of CPU time and of text length.

Jinja's sandbox keeps a template from reaching Python; it does not keep it from looping for hours or building endless
text. Every loop turn, call, arithmetic operator and concatenation therefore passes a check here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sglcore.text.template_names import GenerationTag, PlainNamespace, raise_exception, strftime_now, to_json

MAX_BITS = 1 << 16  # of any number computed
LONG_WIDTH = re.compile(r"\d{6}|\*")  # in a format string: a width of a million, or one taken from an argument


class OverBudget(Exception):
    """A template took too long or built too much; the text says which."""


# In CPU seconds of the rendering thread.
_deadline: ContextVar[float] = ContextVar("template_deadline", default=float("inf"))


class ChatSandbox(ImmutableSandboxedEnvironment):
    """The environment of Hugging Face chat templates. `max_length` bounds any text built, in characters."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, *, max_length: int) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.max_length = max_length
        self.filters["tojson"] = to_json
        for name in ("center", "indent", "format", "replace", "join"):
            self.filters[name] = self._sized(name)
        self.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=PlainNamespace)

    @contextmanager
    def budget(self, seconds: float) -> Iterator[None]:
        """Within, templates may use `seconds` of this thread's CPU time; then OverBudget."""
        token = _deadline.set(time.thread_time() + seconds)
        try:
            yield
        finally:
            _deadline.reset(token)

    def guarded(self, tree: nodes.Template) -> Template:
        """Compile a parsed template with a check in each loop turn and concatenation."""
        for loop in tree.find_all(nodes.For):
            loop.body.insert(0, nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)))
        _replace_concat(tree)
        tree.set_environment(self)
        for node in tree.find_all(nodes.Node):
            if getattr(node, "lineno", None) is None:
                node.set_lineno(1)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def tick(self) -> None:
        if time.thread_time() > _deadline.get():
            raise OverBudget("it takes too much time")

    def check_length(self, length: int) -> None:
        if length > self.max_length:
            raise OverBudget(f"it builds more than {self.max_length} characters")

    def joined(self, *values: Any) -> str:
        """What `a ~ b` means, bounded."""
        self.tick()
        texts = [str(value) for value in values]
        self.check_length(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            name = getattr(obj, "__name__", "")
            args = (list(args[0]), *args[1:]) if name == "join" and args else args  # a generator has no length
            self._check_growth(name, owner, args)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if isinstance(owner, str) and value.__name__ in ("format", "format_map"):
            _check_format(owner)
        return super().wrap_str_format(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":  # by far the most frequent, and its length is known only by doing it
            result = left + right
            if isinstance(result, str | list):
                self.check_length(len(result))
            return result
        if isinstance(left, int) and isinstance(right, int):
            if _bits(operator, left, right) > MAX_BITS:
                raise OverBudget("it computes too large a number")
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(other, int) and isinstance(one, str | list | tuple):
                    self.check_length(len(one) * max(other, 0))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def _check_growth(self, name: str, text: Any, args: tuple[Any, ...]) -> None:
        """Bound the text that a text method or filter of this name would build."""
        if name == "replace" and len(args) >= 2:
            old, new = str(args[0]), str(args[1])
            self.check_length(len(str(text)) + str(text).count(old) * len(new))
        elif name == "join" and args:
            self.check_length(len(str(text)) * len(args[0]) + sum(len(s) for s in args[0] if isinstance(s, str)))
        elif name in ("format", "center", "ljust", "rjust", "zfill", "indent", "expandtabs"):
            for width in args:
                if isinstance(width, int):
                    self.check_length(width * (str(text).count("\n") + 1))
            if name == "format":
                _check_format(str(text))

    def _sized(self, name: str) -> Callable[..., Any]:
        """The built-in filter of this name, its result bounded."""
        function = self.filters[name]

        def bounded(*args: Any, **kwargs: Any) -> Any:
            if name == "join":  # (evaluation context, values, separator)
                args = (args[0], list(args[1]), *args[2:])
                self._check_growth(name, kwargs.get("d", args[2] if len(args) > 2 else ""), args[1:2])
            else:
                first = next((i for i, arg in enumerate(args) if not isinstance(arg, nodes.EvalContext)), 0)
                self._check_growth(name, args[first], (*args[first + 1 :], *kwargs.values()))
            return function(*args, **kwargs)

        bounded.__dict__.update(function.__dict__)
        return bounded


def _bits(operator: str, left: int, right: int) -> int:
    """An upper bound of the result's bits; 0 for operators that cannot explode."""
    if operator == "**":
        return left.bit_length() * max(right, 0)
    return left.bit_length() + right.bit_length() if operator == "*" else 0


def _check_format(text: str) -> None:
    if LONG_WIDTH.search(text):
        raise OverBudget("it formats with a very large width")


def _replace_concat(node: nodes.Node) -> None:
    """Turn `a ~ b` into a call of `ChatSandbox.joined`, below `node`."""
    for name, value in list(node.iter_fields()):
        if isinstance(value, list):
            setattr(node, name, [_without_concat(v) for v in value])
        else:
            setattr(node, name, _without_concat(value))


def _without_concat(value: Any) -> Any:
    if not isinstance(value, nodes.Node):
        return value
    _replace_concat(value)
    if isinstance(value, nodes.Concat):
        return nodes.Call(nodes.EnvironmentAttribute("joined"), value.nodes, [], None, None, lineno=value.lineno)
    return value
