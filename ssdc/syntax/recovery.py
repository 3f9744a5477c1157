"""Feeds tokens to the parser and goes on after a fault, at the next statement or layer.

In come the tokens of a whole text; out go the program, and the faults, one for each broken statement. The parser's
stacks are remembered where a statement begins and put back when it turns out to be broken: what follows is read as if
the statement were not there. Needs what the statement rules promise: a keyword or a tensor begins each.
"""

from __future__ import annotations

from typing import Any

from lark import Token
from lark.exceptions import UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ssdc import errors
from ssdc.syntax import ast, limits
from ssdc.syntax.explain import explain
from ssdc.syntax.scan import Scan
from ssdc.syntax.transform import Rejected, token_span

_HEAD = (("LAYER", "layer"), ("NAME", "_"), ("LPAR", "("), ("RPAR", ")"), ("LBRACE", "{"))


class Driver:
    """One run over one text. `faults` is complete after `run`."""

    def __init__(self, parser: InteractiveParser, tokens: list[Token]) -> None:
        self.scan = Scan(tokens)
        self.faults: list[errors.Fault] = []
        self._state: Any = parser.parser_state
        self._parser: Any = parser
        self._room = "file"  # or "head", "body": where the next token stands
        self._brace: int | None = None  # the token that opened the layer, None for a layer that was made up
        self._start = 0  # the token that began the present statement
        self._mark = self._stacks()

    def run(self) -> ast.Program | None:
        """The program, if every token fitted."""
        at, last = 0, len(self.scan.tokens) - 1
        result: object = None
        while at <= last:
            token = self.scan.tokens[at]
            try:
                result = self._feed(at, token)
                at += 1
            except UnexpectedToken:
                at = self._recover(at, None)
            except Rejected as refusal:
                at = self._recover(at, refusal.fault)
            if len(self.faults) >= limits.FAULTS:
                self.faults.append(errors.TooManyFaults(token_span(token), limit=limits.FAULTS))
                return None
        return result if isinstance(result, ast.Program) else None

    # ---- feeding

    def _feed(self, at: int, token: Token) -> object:
        if len(token) > limits.NAME and token.type in ("NAME", "DOTTED", "TENSOR"):
            raise Rejected(errors.NameTooLong(token_span(token), found=len(token), limit=limits.NAME))
        result: object = self._state.feed_token(token, is_end=token.type == "$END")
        match token.type:
            case "LAYER":
                self._room = "head"
                self._begin(at)
            case "LBRACE":
                self._room, self._brace, self._start = "body", at, at + 1
                self._mark = self._stacks()
            case "RBRACE":
                self._room, self._start = "file", at + 1
                self._mark = self._stacks()
            case _ if self._room == "body" and (at == self._start or self.scan.begins_statement(at)):
                self._begin(at)
        return result

    def _begin(self, at: int) -> None:
        """A statement has begun with the token just shifted: what lies below it is whole."""
        states, values = self._stacks()
        self._start, self._mark = at, (states[:-1], values[:-1])

    def _stacks(self) -> tuple[list[Any], list[Any]]:
        return list(self._state.state_stack), list(self._state.value_stack)

    def _restore(self) -> None:
        states, values = self._mark
        self._state.state_stack[:] = states
        self._state.value_stack[:] = values

    def _made_up(self, *kinds: tuple[str, str]) -> None:
        for kind, text in kinds:
            self._state.feed_token(Token(kind, text))

    # ---- recovering

    def _recover(self, at: int, refused: errors.Fault | None) -> int:
        """Reports what is wrong at a token and says from which token to go on."""
        expected = self._expected(at) if refused is None else set()
        whole = "RBRACE" in expected
        token = self.scan.tokens[at]
        left_open = self._room == "body" and (token.type == "$END" or (token.type == "LAYER" and self.scan.heads(at)))
        if refused is not None:
            self.faults.append(refused)
            at += isinstance(refused, errors.NameTooLong)  # the only one told before its token was read
        elif not (left_open and whole):
            fault, at = explain(self.scan, at, self._start, self._room, expected)
            self.faults.append(fault)
        self._restore()
        if self._room != "body":
            return self._recover_layer(at)
        following = self._start = self.scan.next_start(at)
        return self._close_layer(at) if following == at and left_open else following

    def _expected(self, at: int) -> set[str]:
        """The terminals that fit at a token that does not. The statement is read again up to there, because LALR
        reduces on some tokens that turn out not to fit, and forgets what would have fitted."""
        self._restore()
        for token in self.scan.tokens[self._start : at]:
            self._state.feed_token(token)
        return set(self._parser.accepts())

    def _close_layer(self, at: int) -> int:
        """Another layer or the end of the text begins where a layer still wants its brace."""
        if self._brace is not None:
            token = self.scan.tokens[at]
            self.faults.append(self.scan.not_closed(token, self._brace))
        self._made_up(("RBRACE", "}"))
        self._room, self._start = "file", at
        self._mark = self._stacks()
        return at

    def _recover_layer(self, at: int) -> int:
        """Goes on inside the layer that was meant, or at the next one."""
        token = self.scan.tokens[at]
        if self._room == "file" and token.type in ("RBRACE", "$END"):
            self._start = at + 1
            return at + 1
        following = self.scan.next_body(at)
        self._room = "file"
        if self.scan.tokens[following].type in ("LAYER", "$END"):
            self._start = following
            return following
        self._made_up(*_HEAD)
        opened = self.scan.tokens[following].type == "LBRACE"
        self._room, self._brace = "body", following if opened else None
        self._start = following + 1 if opened else following
        self._mark = self._stacks()
        return self._start
