"""Questions about the token list of a text: where statements begin, which brackets are open.

In come tokens, one of type `$END` last; nothing is changed. The answers are exact for a legal text and a good guess,
helped by line breaks, for a broken one.
"""

from __future__ import annotations

from lark import Token

from ssdc import errors
from ssdc.syntax.transform import short, token_span

STATEMENTS = frozenset({"SIZE", "TIME", "AXIS", "INPUT", "PARAM", "MASK", "USE", "OUTPUT"})
KEYWORDS = STATEMENTS | {"LAYER", "GROUPS", "CHAIN", "OVER"}
OPENING = {")": "(", "]": "[", "}": "{"}
CLOSING = {opening: closing for closing, opening in OPENING.items()}
_OPERAND_ENDS = frozenset({"RSQB", "RPAR", "NAME", "DOTTED", "INTEGER", "FLOAT", "LBRACE"})


class Scan:
    """The tokens of one text, with questions."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self._defining: dict[int, bool] = {}  # answers of `defines`, so that a long list is walked once

    def begins_statement(self, at: int) -> bool:
        """A token that fits the grammar begins a statement here."""
        before = self.tokens[at - 1].type
        if self.tokens[at].type == "TENSOR":
            return before in _OPERAND_ENDS
        return self.tokens[at].type in STATEMENTS and before != "COMMA"  # `mask` after a comma is an option

    def first_on_line(self, at: int) -> bool:
        """No other token stands before it on its line."""
        return at == 0 or (self.tokens[at].line or 0) > (self.tokens[at - 1].line or 0)

    def next_start(self, at: int) -> int:
        """The next token, from `at` on, that begins a statement or a layer, or ends one."""
        following = at
        while not self._starts_anew(following) and not (following > at and self._looks_like_one(following)):
            following += 1
        return following

    def next_body(self, at: int) -> int:
        """The next opening brace, statement, closing brace or layer, from `at` on."""
        while self.tokens[at].type != "LBRACE" and not self._starts_anew(at):
            at += 1
        return at

    def _starts_anew(self, at: int) -> bool:
        kind = self.tokens[at].type
        return kind in ("RBRACE", "$END") or self.heads(at) or (kind == "TENSOR" and self.defines(at))

    def heads(self, at: int) -> bool:
        """A keyword at the head of a layer or statement, not one used as a name."""
        following = self.tokens[at + 1].type if at + 1 < len(self.tokens) else ""
        if self.tokens[at].type not in STATEMENTS | {"LAYER"} or following in ("EQUAL", "COMPARE"):
            return False
        return self.first_on_line(at) or following in ("NAME", "TENSOR")

    def _looks_like_one(self, at: int) -> bool:
        """A misspelt keyword, or a tensor without its brackets, at the start of a line."""
        if self.tokens[at].type != "NAME" or not self.first_on_line(at):
            return False
        following = self.tokens[at + 1].type
        return following in ("NAME", "TENSOR", "LSQB") or (following == "EQUAL" and self.tokens[at - 1].type != "COMMA")

    def defines(self, at: int) -> bool:
        """A tensor first on its line that is followed by its bracket, perhaps more such, and `=`."""
        if not self.first_on_line(at):
            return False
        depth, answer = 0, False
        members: list[int] = []
        for index in range(at, len(self.tokens)):
            token = self.tokens[index]
            if depth == 0 and index in self._defining:
                answer = self._defining[index]
                break
            if token.type in ("LSQB", "LPAR"):
                depth += 1
            elif token.type in ("RSQB", "RPAR"):
                depth -= 1
            elif depth == 0 and token.type == "TENSOR":
                members.append(index)
            elif depth == 0 and token.type not in ("COMMA", "NAME"):
                answer = token.type == "EQUAL" or (token.type == "FOREIGN" and token.endswith("="))
                break
            if depth < 0 or token.type in STATEMENTS or token.type in ("$END", "LBRACE", "EQUAL"):
                break
            if token.type == "NAME" and depth == 0 and self.tokens[index - 1].type != "COMMA":
                break
        self._defining.update(dict.fromkeys(members, answer))
        return answer

    def open_bracket(self, start: int, at: int) -> int | None:
        """The innermost bracket that tokens `start` up to `at` leave open."""
        stack: list[int] = []
        for index in range(start, at):
            token = self.tokens[index]
            if token in ("(", "["):
                stack.append(index)
            elif token in OPENING and stack:
                stack.pop()
        return stack[-1] if stack else None

    def not_closed(self, found: Token, opened: int) -> errors.Fault:
        """The fault of a bracket left open, told at the token found instead of its closing one."""
        opening = self.tokens[opened]
        return errors.NotClosed(
            token_span(found),
            found=describe(found),
            closing=CLOSING[str(opening)],
            opening=str(opening),
            line=opening.line,
            column=opening.column,
        )


def describe(token: Token) -> str:
    """A token in words."""
    if token.type == "$END":
        return "the end of the text"
    return f"`{short(token)}`"
