"""Python functions that know only numbers, translated to LLVM's intermediate language.

The core is written in a small part of Python: whole numbers of 64 bits, floats, truth values and tuples of them, ``while``,
``for … in range``, ``if``, calls of its own functions and of a dozen built-in ones. Annotations say what goes in and out, and a
variable has the type of its first value. So one pass over the syntax tree writes all functions into one module, in a
tenth of a second. What is not in that part of the language is refused with file and line.

The meaning is Python's (floor division, min and max by order, true division of whole numbers), but that whole numbers wrap
around at 64 bits. ``tests/sim/compiled/test_translate.py`` runs the same functions in the interpreter.
"""

import ast
import inspect
import math
import struct
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sim.compiled import memory

INT, FLOAT, BOOL, NOTHING = "i64", "double", "i1", "void"
_NAMES = {"int": INT, "float": FLOAT, "bool": BOOL, "None": NOTHING}
_WIDTH = {BOOL: 0, INT: 1, FLOAT: 2}

Function = Callable[..., Any]


class Value(NamedTuple):
    """A number in the module: its type, and what stands for it; a tuple has its parts."""

    kind: str
    text: str
    parts: tuple["Value", ...] = ()


class NotInTheLanguage(Exception):
    """A function uses something that is not translated."""


def translated(entrance: Function, name: str) -> str:
    """The module of a function and of everything that it calls; only the function itself is visible from outside, by ``name``.

    Raises ``NotInTheLanguage``.
    """
    return _Module(entrance, name).text()


@dataclass(frozen=True)
class _Signature:
    """What a function is called in the module, takes and gives."""

    name: str
    takes: tuple[str, ...]
    gives: str

    @classmethod
    def of(cls, function: Function, name: str) -> "_Signature":
        node = _tree(function)
        takes = tuple(_NAMES[ast.unparse(each.annotation or ast.Constant(None))] for each in node.args.args)
        gives = node.returns
        if isinstance(gives, ast.Subscript) and isinstance(gives.slice, ast.Tuple):
            kind = _struct(_NAMES[ast.unparse(each)] for each in gives.slice.elts)
        else:
            kind = _NAMES[ast.unparse(gives or ast.Constant(None))]
        return cls(name, takes, kind)


def _struct(kinds: Any) -> str:
    return "{ " + ", ".join(kinds) + " }"


def _tree(function: Function) -> ast.FunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    return node


class _Module:
    """All functions that are called, each translated once."""

    def __init__(self, entrance: Function, name: str) -> None:
        self._entrance = entrance
        self._signatures = {entrance: _Signature.of(entrance, name)}
        self._left: list[Function] = [entrance]

    def text(self) -> str:
        bodies = []
        while self._left:
            function = self._left.pop()
            bodies.append(_Body(self, function).text("" if function is self._entrance else "internal "))
        declared = [f"declare double @llvm.{name}.f64(double)" for name in ("rint", "sqrt", "fabs")]
        declared += ["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"]
        declared += [f"declare i64 @llvm.{name}.i64(i64, i64)" for name in ("smin", "smax")]
        return "\n".join([*declared, *bodies, "attributes #0 = { nounwind }", ""])

    def signature(self, function: Function) -> _Signature:
        if function not in self._signatures:
            self._signatures[function] = _Signature.of(function, f"{function.__module__}.{function.__qualname__}")
            self._left.append(function)
        return self._signatures[function]


class _Body:
    """One function."""

    def __init__(self, module: _Module, function: Function) -> None:
        self._module = module
        self._signature = module.signature(function)
        self._node = _tree(function)
        self._file = inspect.getsourcefile(function)
        self._first_line = inspect.getsourcelines(function)[1]
        self._known: dict[str, Any] = function.__globals__
        self._variables: dict[str, str] = {}
        self._places: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self._label = "begin"
        self._ended = False
        """Whether the block has its last instruction."""
        self._loops: list[tuple[str, str]] = []
        """Where ``continue`` and ``break`` go."""

    def text(self, linkage: str) -> str:
        arguments = [each.arg for each in self._node.args.args]
        for name, kind in zip(arguments, self._signature.takes, strict=True):
            self._assign(name, Value(kind, f"%a.{name}"))
        self._block(self._node.body)
        if not self._ended:
            self._line("ret void" if self._signature.gives == NOTHING else "unreachable")
        given = ", ".join(f"{kind} %a.{name}" for name, kind in zip(arguments, self._signature.takes, strict=True))
        head = f'define {linkage}{self._signature.gives} @"{self._signature.name}"({given}) #0 {{'
        return "\n".join([head, "begin:", *self._places, *self._lines, "}"])

    # ---- writing -----------------------------------------------------------------------------------------------------

    def _refuse(self, node: ast.AST, why: str) -> NotInTheLanguage:
        line = self._first_line + getattr(node, "lineno", 1) - 1
        return NotInTheLanguage(f"{self._file}:{line}: {why}: {ast.unparse(node)[:80]}")

    def _line(self, text: str) -> None:
        self._lines.append("  " + text)

    def _new(self, kind: str, text: str) -> Value:
        """The value of an instruction."""
        self._count += 1
        self._line(f"%t{self._count} = {text}")
        return Value(kind, f"%t{self._count}")

    def _labels(self, *names: str) -> list[str]:
        self._count += 1
        return [f"{name}.{self._count}" for name in names]

    def _go(self, label: str) -> None:
        if not self._ended:
            self._line(f"br label %{label}")
        self._ended = True

    def _fork(self, test: Value, then: str, otherwise: str) -> None:
        self._line(f"br i1 {test.text}, label %{then}, label %{otherwise}")
        self._ended = True

    def _begin(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._label, self._ended = label, False

    # ---- statements --------------------------------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if self._ended:
                raise self._refuse(statement, "never reached")
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring
            case ast.Expr(value=value):
                self._value(value)
            case ast.Assign(targets=targets, value=value):
                found = self._value(value)
                for target in targets:
                    self._assign_to(target, found)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                self._assign(name, self._operation(node, op, self._read(name), self._value(value)))
            case ast.If():
                self._if(node)
            case ast.While(test=test, body=body, orelse=[]):
                again, inside, after = self._labels("while", "do", "done")
                self._go(again)
                self._begin(again)
                if not (isinstance(test, ast.Constant) and test.value is True):
                    self._fork(self._truth(self._value(test)), inside, after)
                    self._begin(inside)
                self._loop(body, again, after)
                self._go(again)
                self._begin(after)
            case ast.For(target=ast.Name(), iter=ast.Call(func=ast.Name(id="range")), orelse=[]):
                self._for(node)
            case ast.Return():
                self._return(node)
            case ast.Break():
                self._go(self._loops[-1][1])
            case ast.Continue():
                self._go(self._loops[-1][0])
            case _:
                raise self._refuse(node, "not translated")

    def _loop(self, body: list[ast.stmt], again: str, after: str) -> None:
        self._loops.append((again, after))
        self._block(body)
        self._loops.pop()

    def _if(self, node: ast.If) -> None:
        then, otherwise, after = self._labels("then", "else", "after")
        self._fork(self._truth(self._value(node.test)), then, otherwise if node.orelse else after)
        reached = not node.orelse
        for label, body in ((then, node.body), (otherwise, node.orelse)):
            if body:
                self._begin(label)
                self._block(body)
                reached = reached or not self._ended
                self._go(after)
        if reached:
            self._begin(after)

    def _for(self, node: ast.For) -> None:
        assert isinstance(node.iter, ast.Call)
        assert isinstance(node.target, ast.Name)
        given = node.iter.args
        step = ast.literal_eval(given[2]) if len(given) == 3 else 1
        first = self._value(given[0]) if len(given) > 1 else Value(INT, "0")
        end = self._value(given[0] if len(given) == 1 else given[1])
        counter = self._place(INT)
        self._store(counter, first)
        test, inside, following, after = self._labels("for", "do", "next", "done")
        self._go(test)
        self._begin(test)
        now = self._new(INT, f"load i64, ptr {counter}")
        self._fork(self._new(BOOL, f"icmp {'slt' if step > 0 else 'sgt'} i64 {now.text}, {end.text}"), inside, after)
        self._begin(inside)
        self._assign(node.target.id, now)
        self._loop(node.body, following, after)
        self._go(following)
        self._begin(following)
        self._store(counter, self._new(INT, f"add i64 {now.text}, {step}"))
        self._go(test)
        self._begin(after)

    def _return(self, node: ast.Return) -> None:
        gives = self._signature.gives
        if node.value is None:
            self._line("ret void")
        else:
            value = self._value(node.value)
            if gives.startswith("{"):
                made, kinds = "undef", gives[2:-2].split(", ")
                for place, (kind, part) in enumerate(zip(kinds, value.parts, strict=True)):
                    part = self._as(kind, part, node)
                    made = self._new(gives, f"insertvalue {gives} {made}, {kind} {part.text}, {place}").text
                self._line(f"ret {gives} {made}")
            else:
                self._line(f"ret {gives} {self._as(gives, value, node).text}")
        self._ended = True

    # ---- variables ---------------------------------------------------------------------------------------------------

    def _place(self, kind: str) -> str:
        self._count += 1
        self._places.append(f"  %p.{self._count} = alloca {kind}")
        return f"%p.{self._count}"

    def _store(self, place: str, value: Value) -> None:
        self._line(f"store {value.kind} {value.text}, ptr {place}")

    def _assign_to(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                self._assign(name, value, target)
            case ast.Tuple(elts=parts) if len(parts) == len(value.parts):
                for part, each in zip(parts, value.parts, strict=True):
                    self._assign_to(part, each)
            case _:
                raise self._refuse(target, "cannot be assigned to")

    def _assign(self, name: str, value: Value, node: ast.AST | None = None) -> None:
        if name not in self._variables:
            self._variables[name] = value.kind
            self._places.append(f"  %v.{name} = alloca {value.kind}")
        self._store(f"%v.{name}", self._as(self._variables[name], value, node or ast.Name(name)))

    def _read(self, name: str) -> Value:
        kind = self._variables[name]
        return self._new(kind, f"load {kind}, ptr %v.{name}")

    # ---- values ------------------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=constant):
                return self._constant(node, constant)
            case ast.Name(id=name):
                return self._read(name) if name in self._variables else self._constant(node, self._known.get(name))
            case ast.Tuple(elts=parts):
                return Value("tuple", "", tuple(self._value(part) for part in parts))
            case ast.BinOp(left=left, op=op, right=right):
                return self._operation(node, op, self._value(left), self._value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._number(self._value(operand))
                return self._new(value.kind, f"fneg double {value.text}" if value.kind == FLOAT else f"sub i64 0, {value.text}")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._new(BOOL, f"xor i1 {self._truth(self._value(operand)).text}, true")
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._comparison(node, op, self._value(left), self._value(right))
            case ast.BoolOp():
                return self._either(node)
            case ast.IfExp():
                return self._choice(node)
            case ast.Call():
                return self._call(node)
            case _:
                raise self._refuse(node, "not translated")

    def _constant(self, node: ast.AST, value: Any) -> Value:
        if isinstance(value, bool):
            return Value(BOOL, str(value).lower())
        if isinstance(value, int):
            return Value(INT, str(value))
        if isinstance(value, float):
            return Value(FLOAT, "0x" + struct.pack(">d", value).hex())
        raise self._refuse(node, "neither a variable nor a number")

    def _number(self, value: Value) -> Value:
        return self._new(INT, f"zext i1 {value.text} to i64") if value.kind == BOOL else value

    def _as(self, kind: str, value: Value, node: ast.AST) -> Value:
        """A value in a wider type."""
        if value.kind == kind:
            return value
        if _WIDTH.get(value.kind, 9) > _WIDTH.get(kind, -1):
            raise self._refuse(node, f"{value.kind} where {kind} is meant")
        value = self._number(value)
        return value if kind == INT else self._new(FLOAT, f"sitofp i64 {value.text} to double")

    def _alike(self, node: ast.AST, *values: Value) -> list[Value]:
        """Numbers in the wider of their types."""
        kind = FLOAT if any(value.kind == FLOAT for value in values) else INT
        return [self._as(kind, value, node) for value in values]

    def _truth(self, value: Value) -> Value:
        if value.kind == BOOL:
            return value
        return self._new(BOOL, f"fcmp une double {value.text}, 0.0" if value.kind == FLOAT else f"icmp ne i64 {value.text}, 0")

    def _operation(self, node: ast.AST, op: ast.operator, left: Value, right: Value) -> Value:
        if isinstance(op, ast.Div):
            a, b = (self._as(FLOAT, each, node) for each in (left, right))
            return self._new(FLOAT, f"fdiv double {a.text}, {b.text}")
        a, b = self._alike(node, left, right)
        if a.kind == FLOAT:
            name = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul"}.get(type(op))
        else:
            name = {
                ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.LShift: "shl", ast.RShift: "ashr",
                ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor",
            }.get(type(op))  # fmt: skip
            if isinstance(op, ast.FloorDiv | ast.Mod):
                return self._floored(isinstance(op, ast.Mod), a, b)
        if name is None:
            raise self._refuse(node, "not translated")
        return self._new(a.kind, f"{name} {a.kind} {a.text}, {b.text}")

    def _floored(self, rest: bool, a: Value, b: Value) -> Value:
        """Quotient or rest, rounded down: the machine's are rounded to zero."""
        quotient = self._new(INT, f"sdiv i64 {a.text}, {b.text}")
        remainder = self._new(INT, f"srem i64 {a.text}, {b.text}")
        signs = self._new(INT, f"xor i64 {remainder.text}, {b.text}")
        other = self._new(BOOL, f"icmp slt i64 {signs.text}, 0")
        left = self._new(BOOL, f"icmp ne i64 {remainder.text}, 0")
        off = self._new(BOOL, f"and i1 {other.text}, {left.text}")
        if rest:
            more = self._new(INT, f"select i1 {off.text}, i64 {b.text}, i64 0")
            return self._new(INT, f"add i64 {remainder.text}, {more.text}")
        return self._new(INT, f"sub i64 {quotient.text}, {self._number(off).text}")

    def _comparison(self, node: ast.AST, op: ast.cmpop, left: Value, right: Value) -> Value:
        a, b = self._alike(node, left, right)
        names = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
        name = names.get(type(op))
        if name is None:
            raise self._refuse(node, "not translated")
        if a.kind == FLOAT:
            return self._new(BOOL, f"fcmp {'u' if name == 'ne' else 'o'}{name} double {a.text}, {b.text}")
        return self._new(BOOL, f"icmp {name if name in ('eq', 'ne') else 's' + name} i64 {a.text}, {b.text}")

    def _either(self, node: ast.BoolOp) -> Value:
        """``and`` and ``or``: what decides ends it."""
        decides = "false" if isinstance(node.op, ast.And) else "true"
        (after,) = self._labels("decided")
        ways = []
        value = self._truth(self._value(node.values[0]))
        for each in node.values[1:]:
            (more,) = self._labels("more")
            ways.append(f"[ {decides}, %{self._label} ]")
            if decides == "false":
                self._fork(value, more, after)
            else:
                self._fork(value, after, more)
            self._begin(more)
            value = self._truth(self._value(each))
        ways.append(f"[ {value.text}, %{self._label} ]")
        self._go(after)
        self._begin(after)
        return self._new(BOOL, f"phi i1 {', '.join(ways)}")

    def _choice(self, node: ast.IfExp) -> Value:
        then, otherwise, after = self._labels("then", "else", "chosen")
        self._fork(self._truth(self._value(node.test)), then, otherwise)
        found = []
        for label, branch in ((then, node.body), (otherwise, node.orelse)):
            self._begin(label)
            found.append((self._number(self._value(branch)), self._label))
            self._go(after)
        self._begin(after)
        (first, _), (second, _) = found
        if first.kind != second.kind:
            raise self._refuse(node, "two types")
        return self._new(first.kind, f"phi {first.kind} " + ", ".join(f"[ {value.text}, %{at} ]" for value, at in found))

    # ---- calls -------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Value:
        function, given = self._function(node.func), [self._value(each) for each in node.args]
        if node.keywords:
            raise self._refuse(node, "no keywords")
        if function in (memory.get, memory.getf):
            kind = FLOAT if function is memory.getf else INT
            return self._new(kind, f"load {kind}, ptr {self._address(given)}, align 8")
        if function in (memory.put, memory.putf):
            kind = FLOAT if function is memory.putf else INT
            value = self._as(kind, given[2], node)
            self._line(f"store {kind} {value.text}, ptr {self._address(given)}, align 8")
            return Value(NOTHING, "")
        if function is memory.fetch:
            self._line(f"call void @llvm.prefetch.p0(ptr {self._address(given)}, i32 1, i32 3, i32 1)")
            return Value(NOTHING, "")
        if function in (min, max):
            return self._extreme(node, "min" if function is min else "max", given)
        if function is abs:
            return self._new(FLOAT, f"call double @llvm.fabs.f64(double {self._as(FLOAT, given[0], node).text})")
        if function is float:
            return self._as(FLOAT, given[0], node)
        if function is int:
            (value,) = given
            return self._new(INT, f"fptosi double {value.text} to i64") if value.kind == FLOAT else self._number(value)
        if function in (math.sqrt, np.rint):
            name = "sqrt" if function is math.sqrt else "rint"
            return self._new(FLOAT, f"call double @llvm.{name}.f64(double {self._as(FLOAT, given[0], node).text})")
        if getattr(function, "translated", False):
            return self._own(node, function, given)
        raise self._refuse(node, "calls what is not translated")

    def _function(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name):
                return self._known.get(name, {"min": min, "max": max, "abs": abs, "int": int, "float": float}.get(name))
            case ast.Attribute(value=ast.Name(id=name), attr=attr):
                return getattr(self._known.get(name), attr, None)
        return None

    def _own(self, node: ast.Call, function: Function, given: list[Value]) -> Value:
        called = self._module.signature(function)
        if len(given) != len(called.takes):
            raise self._refuse(node, f"{len(called.takes)} arguments are meant")
        values = [self._as(kind, value, node) for kind, value in zip(called.takes, given, strict=True)]
        arguments = ", ".join(f"{value.kind} {value.text}" for value in values)
        text = f'call {called.gives} @"{called.name}"({arguments})'
        if called.gives == NOTHING:
            self._line(text)
            return Value(NOTHING, "")
        whole = self._new(called.gives, text)
        if not called.gives.startswith("{"):
            return whole
        kinds = called.gives[2:-2].split(", ")
        parts = (self._new(kind, f"extractvalue {called.gives} {whole.text}, {n}") for n, kind in enumerate(kinds))
        return Value("tuple", "", tuple(parts))

    def _address(self, given: list[Value]) -> str:
        base = self._new("ptr", f"inttoptr i64 {given[0].text} to ptr")
        return self._new("ptr", f"getelementptr i64, ptr {base.text}, i64 {given[1].text}").text

    def _extreme(self, node: ast.AST, name: str, given: list[Value]) -> Value:
        """The first of the smallest, or largest: of equal ones it makes no difference but for the sign of zero."""
        found, *others = self._alike(node, *given)
        for other in others:
            if found.kind == INT:
                found = self._new(INT, f"call i64 @llvm.s{name}.i64(i64 {found.text}, i64 {other.text})")
            else:
                better = self._new(BOOL, f"fcmp {'olt' if name == 'min' else 'ogt'} double {other.text}, {found.text}")
                found = self._new(FLOAT, f"select i1 {better.text}, double {other.text}, double {found.text}")
        return found
