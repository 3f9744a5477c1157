"""Text to tree: `parse`.

A `Source` comes in; an `ast.Program` goes out, or a `SpecError` with every independent fault of the text. After a
fault reading goes on at the next statement, so that one run reports each broken statement once. Names are not
resolved, and nothing here is recursive: LALR(1), driven token by token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from lark import Lark, Token

from ssdc import errors
from ssdc.errors import SpecError
from ssdc.resources import grammar_text
from ssdc.source import Source, Span
from ssdc.syntax import ast, limits
from ssdc.syntax.recovery import Driver
from ssdc.syntax.transform import Builder, token_span


def parse(source: Source) -> ast.Program:
    """The tree of a program.

    Raises SpecError with all syntax faults that can be told apart in one run, in source order.

    >>> parse(Source("layer double(C) { time t axis b, c = C input x[b,t,c] y[b,t,c] = 2 * x[b,t,c] output y }"))
    ... # doctest: +ELLIPSIS
    Program(layers=(Layer(name='double', ...),))
    """
    fault = limits.text_fault(source)
    if fault:
        raise SpecError(limits.beginning(source), [fault])
    faults = limits.comment_faults(source)
    tokens, fault = _tokens(source)
    if fault:
        raise SpecError(source, [*faults, fault])
    driver = Driver(_parser().parse_interactive(""), tokens)
    program = driver.run()
    faults += driver.faults
    if program is not None and not program.layers and not faults:
        faults.append(errors.NoLayer(Span(0, 1)))
    if program is not None and not faults:
        fault = limits.tree_fault(program)
        faults = [fault] if fault else []
    if program is None or faults:
        raise SpecError(source, faults)
    return program


class _Keep:
    """Keeps the terminals of foreign text, which no rule uses, in the lexer."""

    always_accept = ("BAD_NUMBER", "FOREIGN", "JUNK")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


@cache
def _parser() -> Lark:
    return Lark(
        grammar_text("ssd.lark") + grammar_text("lexical.lark"),
        start="program",
        parser="lalr",
        lexer="basic",
        keep_all_tokens=True,
        maybe_placeholders=False,
        propagate_positions=False,
        transformer=Builder(),
        postlex=_Keep(),
    )


def _tokens(source: Source) -> tuple[list[Token], errors.Fault | None]:
    """The tokens of a text and one that ends them; or the fault of brackets too deep or tokens too many."""
    reader: Any = _parser().parse_interactive(source.text)
    tokens: list[Token] = []
    depth = 0
    for token in reader.lexer_thread.lex(reader.parser_state):
        tokens.append(token)
        if token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            depth -= 1
        if depth > limits.DEPTH:
            return tokens, errors.TooDeep(token_span(token), what="brackets are", limit=limits.DEPTH)
        if len(tokens) > limits.TOKENS:
            return tokens, errors.TooManyNodes(token_span(token), what="tokens", limit=limits.TOKENS)
    last = tokens[-1] if tokens else Token("$END", "", start_pos=0, end_pos=0, line=0)
    tokens.append(Token("$END", "", start_pos=last.end_pos, end_pos=last.end_pos, line=(last.line or 0) + 1))
    return tokens, None
