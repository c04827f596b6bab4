"""Collects every name of the TensorRT API that source code uses, by reading the code itself.

Names behind ``trt`` are taken as they stand (``trt.BuilderFlag.TF32``). What an object's class is follows from how
it came about, with the return types that the real bindings write into their docstrings (``config =
builder.create_builder_config()``), and where it came in from elsewhere, from what the code calls it.
Code in a file, class or function with ``rtx`` in its name is for TensorRT for RTX only, with ``datacentre`` in its
name for TensorRT only.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

Scope = Literal["both", "rtx", "datacentre"]

# What the adapters call an object that is handed to them.
CALLED = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
# These names are used for our own objects too: only an argument without a type is the library's.
CALLED_AS_ARGUMENT = {"tensor": "ITensor", "layer": "ILayer", "profile": "IOptimizationProfile"}


@dataclass(frozen=True)
class Use:
    """One name of the API, dotted from the library's root, and where it is used."""

    name: str
    scope: Scope
    place: str


def uses_in(path: Path, library: ModuleType) -> list[Use]:
    """Every use in a source file; ``library`` tells what methods return."""
    return uses_in_text(path.read_text(), path.name, library)


def uses_in_text(text: str, name: str, library: ModuleType) -> list[Use]:
    """Every use in source text that lies in the file ``name``."""
    tree = ast.parse(text)
    found = list(_Reader(library, name, _scope(name, "both")).read(tree.body))
    return list(dict.fromkeys(found))


def _scope(name: str, outer: Scope) -> Scope:
    if "rtx" in name.lower():
        return "rtx"
    return "datacentre" if "datacentre" in name.lower() else outer


class _Reader:
    """Reads one scope; functions and classes inside are read with what is known outside."""

    def __init__(
        self, library: ModuleType, place: str, scope: Scope, known: dict[str, str | None] | None = None
    ) -> None:
        self._library, self._place, self._scope = library, place, scope
        self._known: dict[str, str | None] = {"trt": "", **(known or {})}

    def read(self, body: list[ast.stmt]) -> Iterator[Use]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                if isinstance(statement, ast.ClassDef):
                    yield from self._derived(statement)
                yield from self._inner(statement).read(statement.body)
                continue
            for part in ast.iter_child_nodes(statement):
                if isinstance(part, ast.expr | ast.withitem):
                    yield from self._expressions(part)
            if isinstance(statement, ast.Assign):
                self._assign(statement.targets, statement.value)
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                self._assign([statement.target], statement.value)
            for name in ("body", "orelse", "finalbody"):
                yield from self.read(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from self.read(handler.body)

    def _inner(self, node: ast.FunctionDef | ast.ClassDef) -> "_Reader":
        known: dict[str, str | None] = dict(self._known)
        if isinstance(node, ast.FunctionDef):
            for argument in node.args.args + node.args.kwonlyargs:
                known.pop(argument.arg, None)
                untyped = argument.annotation is None or ast.unparse(argument.annotation) == "Any"
                if argument.arg == "trt":
                    known["trt"] = ""
                elif untyped and argument.arg in CALLED_AS_ARGUMENT:
                    known[argument.arg] = CALLED_AS_ARGUMENT[argument.arg]
                elif not untyped:
                    known[argument.arg] = None  # the libraries have no types: this is an object of our own
        return _Reader(self._library, f"{self._place}:{node.name}", _scope(node.name, self._scope), known)

    def _derived(self, node: ast.ClassDef) -> Iterator[Use]:
        """The library's base class, and the methods of it that a class overrides."""
        for base in node.bases:
            if owner := self._kind(base):
                yield Use(owner, self._scope, f"{self._place}:{base.lineno}")
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        yield Use(f"{owner}.{method.name}", self._scope, f"{self._place}:{method.lineno}")

    def _assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        for target in targets:
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for left, right in pairs:
                if isinstance(left, ast.Name) and left.id != "trt":
                    self._known.pop(left.id, None)
                    if (kind := self._kind(right)) is not None:
                        self._known[left.id] = kind

    def _expressions(self, node: ast.AST) -> Iterator[Use]:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and (owner := self._kind(part.value)) is not None:
                yield Use(f"{owner}.{part.attr}".strip("."), self._scope, f"{self._place}:{part.lineno}")

    def _kind(self, node: ast.expr) -> str | None:
        """The dotted name of what an expression is an instance of, or is; None when it isn't the library's."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, CALLED.get(node.id))
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
                plain = node.attr.lstrip("_")
                return "" if plain == "trt" else CALLED.get(plain)
            owner = self._kind(node.value)
            return None if owner is None else f"{owner}.{node.attr}".strip(".")
        if isinstance(node, ast.Call):
            return self._returned(self._kind(node.func))
        return None

    def _returned(self, function: str | None) -> str | None:
        if not function:
            return None
        value: object = self._library
        for part in function.split("."):
            value = getattr(value, part, None)
        if isinstance(value, type):
            return function
        found = re.search(r"-> [\w.:]*?(\w+)$", value.__doc__ or "", re.MULTILINE) if callable(value) else None
        # Some docstrings still have the C++ name of a class, with an I before it.
        names = (found.group(1), found.group(1).removeprefix("I")) if found else ()
        return next((name for name in names if isinstance(getattr(self._library, name, None), type)), None)


def missing(library: ModuleType, names: list[str]) -> list[str]:
    """Those of ``names`` that the library doesn't have; an attribute of a type that it doesn't tell is no name."""
    absent = []
    for name in names:
        value: object = library
        for part in name.split("."):
            if not hasattr(value, part):
                absent.append(name)
                break
            value = getattr(value, part)
    return absent
