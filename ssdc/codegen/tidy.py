"""The last pass over generated text: statements that nothing reads are dropped, and imports name what is called.

In: a module's text as the templates give it, one statement a line, none with an effect but the name it binds. Out: the
same functions, with no unused name.

>>> text = "from words import *\\nimport torch\\ndef f(x):\\n    n = x.shape[0]\\n    y = decay(x)\\n    return y\\n"
>>> print(tidy(text).strip())
from words import decay
def f(x):
    y = decay(x)
    return y
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache


@lru_cache(maxsize=1024)
def tidy(text: str) -> str:
    """The text without unused statements and imports; `from x import *` becomes the names that nothing else binds."""
    while True:
        tree = ast.parse(text)
        dead = {line for node in tree.body if isinstance(node, ast.FunctionDef) for line in _dead(node)}
        if not dead:
            return _with_imports(text, tree)
        text = _without(text, dead)


def _dead(function: ast.FunctionDef) -> Iterator[int]:
    """The lines of assignments to names that a function never reads."""
    read = _loaded(function)

    def inside(body: list[ast.stmt]) -> list[ast.stmt]:
        unused: list[ast.stmt] = []
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)]) if name not in read:
                    unused.append(statement)
                case ast.If(orelse=[]) | ast.For(orelse=[]):
                    gone = inside(statement.body)
                    unused.extend([statement] if len(gone) == len(statement.body) else gone)
                case _:
                    pass
        return unused

    for statement in (*inside(function.body), *_overwritten(function.body)):
        yield from range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)


def _overwritten(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The assignments of a straight run of statements whose name is bound anew before anything reads it."""
    anew: dict[str, bool] = {}  # going backwards: whether the next thing that happens to a name is that it is bound
    for statement in reversed(body):
        target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
        if isinstance(target, ast.Name):
            if anew.get(target.id):
                yield statement
            anew[target.id] = True
        anew.update(dict.fromkeys(_loaded(statement), False))


def _loaded(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _with_imports(text: str, tree: ast.Module) -> str:
    """The text with imports of used names alone."""
    used = _loaded(tree)
    rows = text.splitlines()
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    bound = {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
    bound |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | set(dir(builtins))
    bound |= {name for node in ast.walk(tree) for name in _bound(node)}
    for node in imports:
        match node:
            case ast.ImportFrom(module=module, names=[ast.alias(name="*")]):
                names: Iterable[str] = sorted(used - bound)
                rows[node.lineno - 1] = f"from {module} import {', '.join(names)}" if names else ""
            case ast.ImportFrom(module=module, names=aliases):
                kept = [alias for alias in aliases if (alias.asname or alias.name) in used]
                shown = ", ".join(ast.unparse(alias) for alias in kept)
                rows[node.lineno - 1] = f"from {module} import {shown}" if kept else ""
            case ast.Import(names=aliases):
                kept = [alias for alias in aliases if (alias.asname or alias.name.partition(".")[0]) in used]
                rows[node.lineno - 1] = f"import {', '.join(ast.unparse(alias) for alias in kept)}" if kept else ""
    removed = {node.lineno for node in imports if not rows[node.lineno - 1]}
    return _without("\n".join(rows) + "\n", removed)


def _bound(node: ast.AST) -> tuple[str, ...]:
    match node:
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
            return (name,)
        case _:
            return ()


def _without(text: str, lines: set[int]) -> str:
    kept = "\n".join(row for number, row in enumerate(text.splitlines(), 1) if number not in lines)
    return re.sub(r"\n{4,}", "\n\n\n", kept).rstrip("\n") + "\n"
