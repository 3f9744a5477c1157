"""What is wrong where a token does not fit: the fault, in the words of somebody who writes programs.

In come the tokens, the place, and the terminals that would have fitted; out goes one fault with its remedy. Each
explanation is one small function in `EXPLANATIONS`; the first that knows an answer is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from lark import Token

from ssdc import errors
from ssdc.syntax import limits
from ssdc.syntax.scan import KEYWORDS, OPENING, STATEMENTS, Scan, describe
from ssdc.syntax.transform import short, token_span

# Sets of terminals that one word sums up, and the word for each other terminal; empty where another one covers it.
_GROUPS = (
    (STATEMENTS | {"TENSOR"}, "a statement"),
    (frozenset({"NAME", "INTEGER", "FLOAT", "TENSOR", "LPAR", "MINUS"}), "an expression"),
    (frozenset({"PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX"}), "an operator"),
    (frozenset({"NAME", "INTEGER", "TENSOR", "LPAR"}), "an index"),
    (frozenset({"NAME", "INTEGER", "FLOAT", "TENSOR", "LPAR"}), "a count"),
)
_PHRASES = {
    "LAYER": "`layer`", "NAME": "a name", "DOTTED": "", "TENSOR": "a tensor such as `x[b,t]`", "FLOAT": "", "MASK": "",
    "INTEGER": "a whole number", "GROUPS": "`groups`", "CHAIN": "`chain`", "OVER": "`over`", "COMPARE": "",
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "LBRACE": "`{`", "RBRACE": "`}`", "COMMA": "`,`",
    "EQUAL": "`=`", "TILDE": "`~`", "COLON": "`:`", "PLUS": "`+`", "MINUS": "`-`", "STAR": "`*`", "SLASH": "`/`",
    "CIRCUMFLEX": "`^`", "$END": "the end of the text",
}  # fmt: skip
_FOREIGN = {
    "**": "a power is written `^`",
    "//": "comments begin with `#`; the division of sizes is `/` and must be exact",
    "/*": "comments begin with `#` and end with the line",
    "->": "a definition is `y[...] = expression`",
    ":=": "a definition is `y[...] = expression`",
    ";": "statements need no separator",
}
_STATEMENTS_ELSEWHERE = {
    "return": "output", "yield": "output", "dim": "axis", "dims": "axis", "const": "size", "int": "size", "let": "size",
    "parameter": "param", "weight": "param", "buffer": "param", "import": "use", "module": "use", "arg": "input",
}  # fmt: skip
_CHARACTERS = {
    "@": "write the contraction with indices: `y[i,k] = a[i,j] * b[j,k]`",
    '"': "the language has no strings",
    "'": "the language has no strings; call a second version of `x` `x2`",
    "%": "the language has no remainder",
    ".": "dots stand only inside names, such as `in_proj.weight[e,d]`, and numbers",
    "!": "`!=` is the only operator with it",
    "?": "a choice is `where(condition, a, b)`",
}


@dataclass(frozen=True)
class Place:
    """A token that does not fit, and what is around it."""

    scan: Scan
    at: int
    start: int
    room: str
    expected: frozenset[str]

    @property
    def token(self) -> Token:
        return self.scan.tokens[self.at]

    def kind(self, offset: int) -> str:
        """The type of a token nearby, empty outside of the text."""
        index = self.at + offset
        return str(self.scan.tokens[index].type) if 0 <= index < len(self.scan.tokens) else ""

    @property
    def wanted(self) -> str:
        return phrase(self.expected)

    @property
    def between(self) -> bool:
        """A new statement could begin here."""
        return STATEMENTS <= self.expected


def explain(scan: Scan, at: int, start: int, room: str, expected: set[str]) -> tuple[errors.Fault, int]:
    """The fault at token `at` of the statement that token `start` began, and the token at which to go on."""
    place = Place(scan, at, start, room, frozenset(expected))
    fault = next(filter(None, (explanation(place) for explanation in EXPLANATIONS)), None) or _unexpected(place)
    match fault:
        case errors.ReservedWord():
            return fault, at + 1
        case errors.ExpressionUnfinished():
            return fault, _definition_before(place) or at
        case _:
            return fault, at


def phrase(expected: frozenset[str]) -> str:
    """Terminals as words: `an operator, a statement or `}``."""
    rest = set(expected)
    words: list[str] = []
    for group, name in _GROUPS:
        if group <= rest:
            rest -= group
            words.append(name)
            if name == "an operator":
                rest.discard("LPAR")  # it would make a call of the name before it
    words += sorted(_PHRASES.get(kind, f"`{kind.lower()}`") for kind in rest if _PHRASES.get(kind) != "")
    if not words:
        return "something else"
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


# ---- text that is not of the language ------------------------------------------------------------------------------


def _foreign_character(place: Place) -> errors.Fault | None:
    token = place.token
    if token.type != "JUNK":
        return None
    if not token.isascii():
        return limits.not_ascii(token, token.start_pos or 0)
    return errors.UnknownCharacter(token_span(token), found=str(token), advice=_CHARACTERS.get(token, ""))


def _foreign_number(place: Place) -> errors.Fault | None:
    token = place.token
    if token.type != "BAD_NUMBER":
        return None
    why = "it has stray letters or dots" if "." in token else "names begin with a letter"
    return errors.BadNumber(token_span(token), found=short(token), why=why)


def _foreign_operator(place: Place) -> errors.Fault | None:
    token = place.token
    if token.type == "FOREIGN":
        assigns = "a name is defined once, by `=`" if token.endswith("=") else "choices are made by `where(...)`"
        advice = _FOREIGN.get(token, assigns)
    elif token == "==" and "EQUAL" in place.expected:
        advice = "a definition is written with a single `=`"
    else:
        return None
    return errors.ForeignOperator(token_span(token), found=str(token), expected=place.wanted, advice=advice)


def _comparison(place: Place) -> errors.Fault | None:
    if place.token.type != "COMPARE":
        return None
    return errors.ComparisonOutside(token_span(place.token), found=str(place.token), expected=place.wanted)


# ---- brackets ------------------------------------------------------------------------------------------------------


def _bracket_open(place: Place) -> errors.Fault | None:
    opened = place.scan.open_bracket(place.start, place.at)
    if opened is None:
        return None
    token, opening = place.token, place.scan.tokens[opened]
    if token in OPENING:
        return None if OPENING[str(token)] == opening else place.scan.not_closed(token, opened)
    ends = token.type in ("$END", "LBRACE") or (token.type == "EQUAL" and opening == "[")
    begins = place.scan.heads(place.at) or (token.type == "TENSOR" and place.scan.defines(place.at))
    return place.scan.not_closed(token, opened) if ends or begins else None


def _bracket_stray(place: Place) -> errors.Fault | None:
    token = place.token
    if token not in OPENING or place.scan.open_bracket(place.start, place.at) is not None:
        return None
    if token == "}" and place.room != "file":
        return None
    return errors.NotOpened(token_span(token), found=str(token), opening=OPENING[str(token)])


# ---- statements ----------------------------------------------------------------------------------------------------


def _outside(place: Place) -> errors.Fault | None:
    if place.room != "file" or place.token.type == "$END":
        return None
    token = place.token
    if token.type == "NAME" and get_close_matches(token, ("layer",)):
        advice = "did you mean `layer`?"
        return errors.UnknownStatement(token_span(token), found=str(token), expected="`layer`", advice=advice)
    return errors.OutsideLayer(token_span(token), found=describe(token))


def _definition_inside(place: Place) -> errors.Fault | None:
    """`=` after a tensor that begins a line: the statement before it was not finished."""
    at = _definition_before(place)
    if place.token.type != "EQUAL" or at is None:
        return None
    token, before = place.scan.tokens[at], describe(place.scan.tokens[at - 1])
    return errors.ExpressionUnfinished(token_span(token), found=str(token), before=before)


def _definition_before(place: Place) -> int | None:
    """The last tensor, within the statement, that looks like the left side of a definition."""
    tokens = place.scan.tokens
    for index in range(place.at - 1, place.start, -1):
        if tokens[index].type == "TENSOR" and place.scan.defines(index):
            return index
    return None


def _operator_missing(place: Place) -> errors.Fault | None:
    """A tensor in the middle of a line was taken for a new definition, which then lacks its `=`."""
    first = place.scan.tokens[place.start]
    if "EQUAL" not in place.expected or first.type != "TENSOR" or place.scan.first_on_line(place.start):
        return None
    if place.scan.tokens[place.start - 1].type == "LBRACE":
        return None
    return errors.OperatorMissing(token_span(first), found=str(first))


def _word(place: Place) -> errors.Fault | None:
    """A plain name where a statement, or a tensor, should begin."""
    token = place.token
    if token.type != "NAME":
        return None
    span, following = token_span(token), place.kind(1)
    if place.between and following == "EQUAL":
        return errors.BracketsMissing(span, found=str(token))
    if following == "LSQB" or (not place.between and {"TENSOR"} == place.expected):
        return errors.BracketsMissing(span, found=str(token))
    if place.between and (place.scan.first_on_line(place.at) or place.kind(-1) == "LBRACE"):
        near = get_close_matches(token, sorted(kind.lower() for kind in STATEMENTS), n=1)
        meant = _STATEMENTS_ELSEWHERE.get(token) or (near[0] if near else "")
        advice = f"did you mean `{meant}`?" if meant else ""
        return errors.UnknownStatement(span, found=str(token), expected=place.wanted, advice=advice)
    return None


def _reserved(place: Place) -> errors.Fault | None:
    token = place.token
    if token.type not in KEYWORDS or place.scan.heads(place.at) or not {"NAME", "TENSOR"} & place.expected:
        return None
    return errors.ReservedWord(token_span(token), found=str(token))


def _dotted(place: Place) -> errors.Fault | None:
    if place.token.type != "DOTTED":
        return None
    return errors.DottedName(token_span(place.token), found=str(place.token), expected=place.wanted)


def _chain_mixed(place: Place) -> errors.Fault | None:
    """Members where sizes belong, or sizes where members belong."""
    if place.scan.tokens[place.start].type != "USE":
        return None
    if place.token.type == "LPAR" and place.expected == {"EQUAL"} and place.kind(-2) != "USE":
        found, expected = "a layer among the sizes of another", "`NAME = expression`"
    elif place.token.type == "EQUAL" and place.expected == {"LPAR"}:
        found, expected = "a size among the members of `chain`", "a layer such as `ssd(H = H)`"
    else:
        return None
    return errors.BadChain(token_span(place.token), found=found, expected=expected)


# ---- indices and the rest ------------------------------------------------------------------------------------------


def _forward_lag(place: Place) -> errors.Fault | None:
    token = place.token
    opened = place.scan.open_bracket(place.start, place.at)
    if opened is None or place.scan.tokens[opened] != "[":
        return None
    axis = place.scan.tokens[place.at - 1]
    if token.type == "PLUS" and axis.type == "NAME":
        found = f"{axis}+" + (short(place.scan.tokens[place.at + 1]) if place.kind(1) == "INTEGER" else "...")
        advice = "a position cannot read a later one this way; declare a mask, or shift the input"
        return errors.BadLag(token_span(axis).to(token_span(token)), found=found, axis=str(axis), advice=advice)
    if axis.type == "MINUS" and place.expected == {"INTEGER"}:
        name = place.scan.tokens[place.at - 2]
        found, advice = f"{name}-{short(token)}", "the number of steps is written as a literal"
        return errors.BadLag(token_span(name).to(token_span(token)), found=found, axis=str(name), advice=advice)
    return None


def _unexpected(place: Place) -> errors.Fault:
    advice = ""
    if place.token.type == "EQUAL" and "TILDE" in place.expected:
        advice = "an initialiser is written `~ init`"
    elif place.token.type == "TILDE" and "EQUAL" in place.expected:
        advice = "`~` gives a parameter its initialiser; a definition is written with `=`"
    elif place.kind(-1) == "COMMA":
        advice = "remove the comma before it, or go on with the list"
    elif place.token.type == "EQUAL" and place.kind(-1) == "NAME" and {"COMMA", "RPAR"} <= place.expected:
        advice = "options belong to a reduction, which names its axes first: `sum(e over n, mask = M)`"
    elif place.room == "head":
        advice = "a layer begins `layer NAME(SIZE, SIZE = 64) {`"
    return errors.Unexpected(token_span(place.token), found=describe(place.token), expected=place.wanted, advice=advice)


EXPLANATIONS: tuple[Callable[[Place], errors.Fault | None], ...] = (
    _foreign_character,
    _foreign_number,
    _foreign_operator,
    _bracket_stray,
    _bracket_open,
    _outside,
    _definition_inside,
    _operator_missing,
    _comparison,
    _word,
    _reserved,
    _dotted,
    _chain_mixed,
    _forward_lag,
)
