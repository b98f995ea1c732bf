"""Go's text templates, as far as docker has taught them to people: ``{{.Repository}}:{{.Tag}}``.

    {{.A.B}}  {{.}}  {{json .X}}  {{lower .X}} upper title  {{join .X ","}}  {{split .X ","}}  {{len .X}}
    {{index .X "key" 0}}  {{println .X}}  {{.X | json}}  {{"text"}}  {{range .X}}…{{else}}…{{end}}
    {{if .X}}…{{else if .Y}}…{{else}}…{{end}}  {{range $k, $v := .X}}  {{eq .X "y"}} ne and or not

Members are found by their name whatever its case, with or without underscores.  Source: Go's text/template;
docker's "Format command and log output".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.colour import safe

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?[0-9]+)|(?P<field>\$?\w*(?:\.\w+)+|\.|\$\w*)"""
    r"""|(?P<word>[A-Za-z]\w*)|(?P<mark>[()|,]|:=))""",
    re.ASCII,
)
DEPTH: Final = 50
"""Blocks within blocks."""

Scope = dict[str, Any]
"""``.`` under an empty name, variables under ``$`` and theirs."""

Node = Callable[[Scope], str]
Value = Callable[[Scope], Any]


class Template:
    """A parsed template; raises InvalidConfig for one that cannot be."""

    def __init__(self, text: str) -> None:
        parser = _Parser(text)
        self._nodes = parser.block(0)
        if parser.ended_by:
            raise _wrong(f"{{{{{parser.ended_by}}}}} without a beginning")

    def render(self, value: object) -> str:
        """Return the text for one value: structs, mappings, sequences, plain values."""
        plain = msgspec.to_builtins(value, enc_hook=str)
        return _run(self._nodes, {"": plain, "$": plain})


def unescape(text: str) -> str:
    r"""Return a format with ``\t`` and ``\n`` written out, as shells pass them on."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def fields(template: str) -> list[str]:
    """Return the heading of each column of a ``table`` template: its last member's name in capitals."""
    cells = [re.findall(r"\.(\w+)[^.\w]*\}\}", cell) for cell in template.split("\t")]
    return [_spaced(names[-1]).upper() if names else "" for names in cells]


def _spaced(name: str) -> str:
    """``CreatedSince`` → ``Created Since``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _run(nodes: Sequence[Node], scope: Scope) -> str:
    return "".join(node(scope) for node in nodes)


class _Parser:
    """Reads a template from left to right, one block within another."""

    def __init__(self, text: str) -> None:
        self._parts = list(_split(text))
        self._at = 0
        self.ended_by = ""

    def block(self, depth: int) -> list[Node]:
        """The nodes up to the action that ends the block, which ``ended_by`` then holds."""
        if depth > DEPTH:
            raise _wrong("too many blocks within blocks")
        nodes: list[Node] = []
        self.ended_by = ""
        while self._at < len(self._parts):
            text, action = self._parts[self._at]
            self._at += 1
            if text:
                nodes.append(_literal(text))
            if action is None:
                continue
            word = action.split(maxsplit=1)[0] if action.strip() else ""
            if word in ("end", "else"):
                self.ended_by = action
                return nodes
            nodes.append(self._action(word, action, depth))
        return nodes

    def _action(self, word: str, action: str, depth: int) -> Node:
        if word == "if":
            return self._if(action.removeprefix("if"), depth)
        if word in ("range", "with"):
            return self._range(action.removeprefix(word), depth, every=word == "range")
        value = _pipeline(action)
        return lambda scope: _show(value(scope))

    def _if(self, condition: str, depth: int) -> Node:
        test, then = _pipeline(condition), self.block(depth + 1)
        otherwise = self._otherwise(depth)
        return lambda scope: _run(then if _true(test(scope)) else otherwise, scope)

    def _otherwise(self, depth: int) -> list[Node]:
        ended = self.ended_by
        if ended.split() == ["else"]:
            nodes = self.block(depth + 1)
            ended = self.ended_by
        elif ended.startswith("else if"):
            return [self._if(ended.removeprefix("else if"), depth + 1)]
        else:
            nodes = []
        if ended != "end":
            raise _wrong("a block without {{end}}")
        self.ended_by = ""
        return nodes

    def _range(self, head: str, depth: int, *, every: bool) -> Node:
        names, source = _declared(head)
        value, body = _pipeline(source), self.block(depth + 1)
        otherwise = self._otherwise(depth)

        def node(scope: Scope) -> str:
            found = value(scope)
            if not _true(found):
                return _run(otherwise, scope)
            pairs = _pairs(found) if every else [(None, found)]
            return "".join(_run(body, _within(scope, names, pair)) for pair in pairs)

        return node


def _split(text: str) -> Iterator[tuple[str, str | None]]:
    """Pairs of literal text and the action behind it; ``{{-`` and ``-}}`` take the white space along."""
    at, trim = 0, False
    for match in _ACTION.finditer(text):
        literal = text[at : match.start()]
        literal = literal.lstrip() if trim else literal
        at, trim = match.end(), bool(match[3])
        action = match[2].strip()
        literal = literal.rstrip() if match[1] else literal
        yield literal, None if action.startswith("/*") else action
    rest = text[at:].lstrip() if trim else text[at:]
    if "{{" in rest:
        raise _wrong("an action without }}")
    yield rest, None


def _literal(text: str) -> Node:
    return lambda _: text


def _declared(head: str) -> tuple[list[str], str]:
    """The variables of ``$k, $v := VALUE``, and the value."""
    before, declares, source = head.partition(":=")
    if not declares:
        return [], head
    names = [name.strip() for name in before.split(",")]
    if not 1 <= len(names) <= 2 or not all(re.fullmatch(r"\$\w+", name, re.ASCII) for name in names):
        raise _wrong(f"variables {before.strip()!r}")
    return names, source


def _pairs(value: object) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    raise _wrong("range over something that is no list")


def _within(scope: Scope, names: list[str], pair: tuple[Any, Any]) -> Scope:
    inner = {**scope, "": pair[1]}
    if names:
        inner[names[-1]] = pair[1]
    if len(names) == 2:
        inner[names[0]] = pair[0]
    return inner


# ── values ──────────────────────────────────────────────────────────────────────────────────────────────


def _pipeline(text: str) -> Value:
    """``A | f x | g``: each stage gets the one before as its last argument."""
    tokens = list(_tokens(text))
    value, at = _stages(tokens, 0)
    if at != len(tokens):
        raise _wrong(f"{text.strip()!r} is not understood")
    return value


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _wrong(f"{text[at:].strip()!r} is not understood")
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


def _stages(tokens: list[tuple[str, str]], at: int) -> tuple[Value, int]:
    value, at = _command(tokens, at, None)
    while at < len(tokens) and tokens[at] == ("mark", "|"):
        value, at = _command(tokens, at + 1, value)
    return value, at


def _command(tokens: list[tuple[str, str]], at: int, last: Value | None) -> tuple[Value, int]:
    """A function and its arguments, or one operand."""
    if at < len(tokens) and tokens[at][0] == "word" and tokens[at][1] in FUNCTIONS:
        name, at = tokens[at][1], at + 1
        arguments: list[Value] = []
        while at < len(tokens) and tokens[at] not in (("mark", "|"), ("mark", ")")):
            operand, at = _operand(tokens, at)
            arguments.append(operand)
        return _call(name, [*arguments, last] if last else arguments), at
    if last is not None:
        raise _wrong("a value after |, where a function is wanted")
    return _operand(tokens, at)


def _operand(tokens: list[tuple[str, str]], at: int) -> tuple[Value, int]:
    if at >= len(tokens):
        raise _wrong("an empty action, or one that ends too early")
    kind, text = tokens[at]
    if (kind, text) == ("mark", "("):
        value, at = _stages(tokens, at + 1)
        if at >= len(tokens) or tokens[at] != ("mark", ")"):
            raise _wrong("a parenthesis that is not closed")
        return value, at + 1
    if kind == "field":
        return _field(text), at + 1
    if kind in ("text", "number"):
        plain: Any = int(text) if kind == "number" else _unquoted(text)
        return (lambda _: plain), at + 1
    if text in _CONSTANTS:
        return (lambda _: _CONSTANTS[text]), at + 1
    raise _wrong(f"{text!r} is not a function", f"there are {', '.join(sorted(FUNCTIONS))}")


_CONSTANTS: Final = {"true": True, "false": False, "nil": None}


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.MsgspecError:
        raise _wrong(f"{text} is no string") from None


def _field(text: str) -> Value:
    head, *names = text.split(".")

    def find(scope: Scope) -> Any:  # noqa: ANN401
        if head not in scope:
            raise _wrong(f"no variable {head}")
        value = scope[head]
        for name in filter(None, names):
            value = member(value, name)
        return safe(value) if isinstance(value, str) else value

    return find


def member(value: object, name: str) -> Any:  # noqa: ANN401
    """Return a member by its name, whatever its case; raises InvalidConfig naming those there are."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"format: nothing has a member {name} where that is asked for")
    if name in value:
        return value[name]
    wanted = _folded(name)
    for key, found in value.items():
        if _folded(str(key)) == wanted:
            return found
    raise InvalidConfig(f"format: there is no {name}", hint=f"there are {', '.join(map(str, value))}"[:300])


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _call(name: str, arguments: list[Value]) -> Value:
    function = FUNCTIONS[name]

    def run(scope: Scope) -> Any:  # noqa: ANN401
        try:
            return function(*(argument(scope) for argument in arguments))
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            raise _wrong(f"{name} cannot do that with what it is given") from None

    return run


def _show(value: object) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{safe(str(key))}:{_item(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(_item, value))}]"
    return str(value)


def _item(value: object) -> str:
    """What is within a list: from outside, so fit for a terminal."""
    return safe(value) if isinstance(value, str) else _show(value)


def _true(value: object) -> bool:
    return bool(value)


def _index(value: Any, *keys: Any) -> Any:  # noqa: ANN401
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[key]
    return value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "json": _json,
    "join": lambda parts, between: between.join(map(_item, parts)),
    "split": lambda text, between: text.split(between),
    "lower": lambda text: _show(text).lower(),
    "upper": lambda text: _show(text).upper(),
    "title": lambda text: _show(text).title(),
    "truncate": lambda text, length: _show(text)[:length],
    "println": lambda *parts: " ".join(map(_show, parts)) + "\n",
    "print": lambda *parts: "".join(map(_show, parts)),
    "len": len,
    "index": _index,
    "eq": lambda one, *others: one in others,
    "ne": lambda one, two: one != two,
    "lt": lambda one, two: one < two,
    "gt": lambda one, two: one > two,
    "and": lambda *values: next((one for one in values if not one), values[-1]),
    "or": lambda *values: next((one for one in values if one), values[-1]),
    "not": lambda value: not value,
}


def _wrong(what: str, hint: str = "as in {{.Repository}}:{{.Tag}}") -> InvalidConfig:
    return InvalidConfig(f"format: {what}", hint=hint)
