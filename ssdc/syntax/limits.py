"""What a program may not exceed, checked before and after parsing, so that hostile text costs milliseconds.

Text, tokens or a tree come in; the one fault that stops the reading goes out, or None. Sizes and their products are
checked where they are known, in `ssdc.graph`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import fields

from ssdc import errors
from ssdc.source import Source, Span
from ssdc.syntax import ast

CHARACTERS = 2**18
TOKENS = 30_000
DEPTH = 64
NODES = 10_000
NAME = 64
FAULTS = 50

# Control characters, and what stands for bytes that could not be decoded.
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufffd]")
_COMMENT = re.compile("#[^\n]*")
_WIDE = re.compile("[^\x00-\x7f]")
_NESTING = (ast.Binary, ast.Negate, ast.Compare, ast.Call, ast.Reduce, ast.TensorRef, ast.Repeat, ast.Chain)

# What was probably meant by a character beyond ASCII; an empty text says that it should go.
LOOKALIKES = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-", "\u00d7": "*", "\u00b7": "*",
    "\u22c5": "*", "\u2217": "*", "\u00f7": "/", "\u2215": "/", "\u2264": "<=", "\u2265": ">=", "\u2260": "!=",
    "\u223c": "~", "\u02dc": "~", "\u201a": ",", "\u00a0": " ", "\u200b": "", "\ufeff": "", "\u2211": "sum",
    "\u03b1": "alpha", "\u03b2": "beta", "\u03b3": "gamma", "\u03b4": "delta", "\u03b5": "eps", "\u03bb": "lam",
    "\u039b": "Lambda", "\u03bc": "mu", "\u03c0": "pi", "\u03c3": "sigma", "\u03c4": "tau", "\u2113": "l",
    "\u0430": "a", "\u0435": "e", "\u043e": "o", "\u0440": "p", "\u0441": "c", "\u0443": "y", "\u0445": "x",
    "\u0456": "i", "\u0455": "s", "\u0501": "d", "\u04bb": "h", "\u0410": "A", "\u0412": "B", "\u0415": "E",
    "\u041a": "K", "\u041c": "M", "\u041d": "H", "\u041e": "O", "\u0420": "P", "\u0421": "C", "\u0422": "T",
    "\u0425": "X",
}  # fmt: skip


def text_fault(source: Source) -> errors.Fault | None:
    """Too long, or not text at all."""
    text = source.text
    if len(text) > CHARACTERS:
        return errors.TextTooLong(Span(0, 1), found=len(text), limit=CHARACTERS)
    control = _CONTROL.search(text)
    if control:
        found = "a NUL character" if control[0] == "\0" else f"the character U+{ord(control[0]):04X}"
        return errors.BinaryText(Span(control.start(), control.end()), found=found)
    return None


def beginning(source: Source) -> Source:
    """As much of a text as is worth looking at: counting the lines of a huge one would take longer than refusing it."""
    return Source(source.text[:CHARACTERS], source.name)


def comment_faults(source: Source) -> list[errors.Fault]:
    """The first character beyond ASCII of each comment."""
    found: list[errors.Fault] = []
    for comment in _COMMENT.finditer(source.text):
        wide = _WIDE.search(source.text, *comment.span())
        if wide and len(found) < FAULTS:
            found.append(not_ascii(wide[0], wide.start()))
    return found


def not_ascii(character: str, offset: int) -> errors.Fault:
    """The fault of one character beyond ASCII, by its Unicode name."""
    name = unicodedata.name(character, "a character without a name")
    plain = LOOKALIKES.get(character)
    if plain is None:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        advice = f"write `{plain}`" if plain.isprintable() and plain.strip() else ""
    else:
        advice = f"write `{plain}`" if plain.strip() else "write a plain space" if plain else "remove it"
    return errors.NotAscii(Span(offset, offset + 1), found=f"U+{ord(character):04X} ({name})", advice=advice)


def tree_fault(program: ast.Program) -> errors.Fault | None:
    """Too many nodes, or expressions too deep. Walks without recursion, whatever the tree."""
    stack: list[tuple[ast.Node, int]] = [(program, 0)]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > NODES:
            return errors.TooManyNodes(Span(0, 1), what="nodes", limit=NODES)
        depth += isinstance(node, _NESTING)
        if depth > DEPTH:
            return errors.TooDeep(node.span, what="an expression is", limit=DEPTH)
        stack.extend((child, depth) for child in children(node))
    return None


def children(node: ast.Node) -> Iterator[ast.Node]:
    """The nodes directly below a node, in the order of its fields."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, ast.Node):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, ast.Node):
                    yield item
                elif isinstance(item, tuple):
                    yield from (part for part in item if isinstance(part, ast.Node))
