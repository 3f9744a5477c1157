"""The catalogue of faults: one class a fault, with its code, its message and its remedy.

`SpecError` carries every fault found in a program and shows each with its place in the source; `CallError` and its
kin are raised by a compiled module for a bad call. All of them are `SsdcError`.

    E1xx  the text is not a program        E4xx  masks
    E2xx  names, sizes and declarations    E5xx  legal, but not lowered yet
    E3xx  axes, time and the summation rule    E6xx  orders and plans    E7xx  calls of a compiled module
"""

from __future__ import annotations

import unicodedata
from typing import ClassVar

from ssdc.source import Source, Span


class SsdcError(Exception):
    """Every error that ssdc raises on purpose."""


class Fault:
    """One thing wrong with a program, at one place.

    A subclass gives `code`, `message` and perhaps `remedy`, the last two as `str.format` templates over the facts
    that the constructor takes by keyword.
    """

    code: ClassVar[str] = "E000"
    message: ClassVar[str] = ""
    remedy: ClassVar[str] = ""

    def __init__(self, span: Span, **facts: object) -> None:
        self.span = span
        self.facts = facts

    @property
    def text(self) -> str:
        """What was found, and what was expected."""
        return self.message.format(**self.facts)

    @property
    def hint(self) -> str:
        """What to do about it; empty where no remedy is known."""
        return self.remedy.format(**self.facts)


class SpecError(SsdcError):
    """A program with faults. `faults` holds all that were found in one run, in source order."""

    def __init__(self, source: Source, faults: list[Fault]) -> None:
        self.source = source
        self.faults = sorted(faults, key=lambda fault: (fault.span.start, fault.span.end, fault.code))
        super().__init__("\n\n".join(render(source, fault) for fault in self.faults))


def render(source: Source, fault: Fault) -> str:
    """The diagnostic of one fault as text: place, code, message, the source line with the span underlined, remedy.

    Of a line longer than 160 characters the part around the fault is shown; of a span over several lines, the first.
    """
    line, column = source.position(fault.span.start)
    margin = " " * len(str(line))
    rows = [
        f"{source.name}:{line}:{column}: error[{fault.code}]: {fault.text}",
        f" {margin} |",
        *(f" {row}" for row in excerpt(source, fault.span)),
    ]
    if fault.hint:
        rows.append(f" {margin} = help: {fault.hint}")
    return "\n".join(row.rstrip() for row in rows)


def excerpt(source: Source, span: Span) -> tuple[str, str]:
    """The source line of a span behind its number, and the marks under it.

    >>> print("\\n".join(excerpt(Source("a\\nbc def"), Span(5, 8))))
    2 | bc def
      |    ^^^
    """
    line, column = source.position(span.start)
    before, shown, marks = _excerpt(source.line(line).rstrip("\r"), column - 1, span.end - span.start)
    return f"{line} | {shown}", f"{' ' * len(str(line))} | {' ' * before}{'^' * marks}"


_SHOWN, _CONTEXT = 160, 60


def _excerpt(text: str, start: int, length: int) -> tuple[int, str, int]:
    """How many columns stand before the marks, the part of a line to show, and how many marks stand under it."""
    left = max(0, start - _CONTEXT) if len(text) > _SHOWN else 0
    part = text[left : left + _SHOWN]
    dots = "..." if left else ""
    marks = max(1, min(length, len(part) - (start - left)))
    shown = dots + "".join(map(_one_column, part)) + ("..." if left + _SHOWN < len(text) else "")
    return start - left + len(dots), shown, marks


def _one_column(character: str) -> str:
    """What is shown for a character: itself if it fills one column, so that the marks stand where they should."""
    if character == "\t":
        return " "
    narrow = unicodedata.east_asian_width(character) not in "WF" and not unicodedata.combining(character)
    return character if narrow and character.isprintable() else "?"


# ---- E1xx: the text is not a program --------------------------------------------------------------------------------


class BinaryText(Fault):
    """A NUL or another control character: the file is not text."""

    code = "E101"
    message = "found {found}, so this is not program text"
    remedy = "an .ssd file is plain ASCII text"


class TextTooLong(Fault):
    """More characters than any program needs."""

    code = "E102"
    message = "the text has {found} characters; at most {limit} are read"


class TooDeep(Fault):
    """Brackets or expressions nested beyond the limit."""

    code = "E103"
    message = "{what} nested more than {limit} deep"
    remedy = "give a part its own line: `name[...] = ...`"


class TooManyNodes(Fault):
    """A program larger than the limit."""

    code = "E104"
    message = "the program has more than {limit} {what}"
    remedy = "split it into layers in several files"


class NotAscii(Fault):
    """A character beyond ASCII, in code or in a comment."""

    code = "E105"
    message = "found {found}; the text of a program is ASCII"
    remedy = "{advice}"


class UnknownCharacter(Fault):
    """An ASCII character that the language does not use."""

    code = "E106"
    message = "found `{found}`, which the language does not use"
    remedy = "{advice}"


class BadNumber(Fault):
    """A number that is malformed, not finite or too long."""

    code = "E107"
    message = "`{found}` is not a number of the language: {why}"
    remedy = "integers have at most nine digits; others read like 0.5 or 1e-5 and fit float64"


class NameTooLong(Fault):
    """A name of more than 64 characters."""

    code = "E108"
    message = "this name has {found} characters; at most {limit} are allowed"


class Unexpected(Fault):
    """Anything else that does not fit where it stands."""

    code = "E110"
    message = "found {found}, expected {expected}"
    remedy = "{advice}"


class UnknownStatement(Fault):
    """A word that begins no statement."""

    code = "E111"
    message = "found `{found}`, expected {expected}"
    remedy = "{advice}"


class BracketsMissing(Fault):
    """A tensor without its indices."""

    code = "E112"
    message = "found the bare name `{found}` where a tensor such as `{found}[...]` is expected"
    remedy = "a tensor always carries its indices, directly after the name: `{found}[...]`; sizes begin with `size`"


class NotClosed(Fault):
    """A bracket or brace that is still open where it should have been closed."""

    code = "E113"
    message = "found {found}, expected `{closing}` to close the `{opening}` of line {line}, column {column}"


class NotOpened(Fault):
    """A closing bracket or brace without its opening one."""

    code = "E114"
    message = "found `{found}`, which closes nothing"
    remedy = "remove it, or add the `{opening}` that it closes"


class OperatorMissing(Fault):
    """Two operands side by side, read as the start of a new definition."""

    code = "E115"
    message = "found `{found}` right after a complete expression, expected an operator"
    remedy = "products are written with `*`"


class ExpressionUnfinished(Fault):
    """A definition begins while the expression before it still wants an operand."""

    code = "E116"
    message = "found the definition of `{found}`, expected the rest of the statement that ends with {before}"


class ForeignOperator(Fault):
    """An operator of other languages."""

    code = "E117"
    message = "found `{found}`, which is not an operator here, expected {expected}"
    remedy = "{advice}"


class ComparisonOutside(Fault):
    """A comparison that is not an argument of a call."""

    code = "E118"
    message = "found the comparison `{found}`, expected {expected}"
    remedy = "comparisons stand only as an argument of `where(...)`"


class ReservedWord(Fault):
    """A word of the language used as a name."""

    code = "E119"
    message = "found `{found}`, a word of the language, expected a name"
    remedy = "choose another name, such as `{found}_`"


class BadLag(Fault):
    """A step in time that is not a positive number of steps back."""

    code = "E120"
    message = "found `{found}`, expected a fixed number of steps back, at least one, such as `{axis}-1`"
    remedy = "{advice}"


class BadUnit(Fault):
    """A number other than 1 between brackets."""

    code = "E121"
    message = "found the index `{found}`, expected an axis, `t-1`, `(h p)` or the literal `1`"
    remedy = "only the literal 1, an axis of size one, may stand as a number"


class FlatTooShort(Fault):
    """A flattened axis of fewer than two axes."""

    code = "E122"
    message = "found a flattened axis of `{found}` alone, expected two or more axes"
    remedy = "write `{found}`, or name the axes it joins: `({found} p)`"


class UnknownKind(Fault):
    """A tensor type that does not exist."""

    code = "E123"
    message = "found the type `{found}`, expected {expected}"
    remedy = "{advice}"


class DottedName(Fault):
    """A dotted name where only a plain one is legal."""

    code = "E124"
    message = "found the dotted name `{found}` without indices, expected {expected}"
    remedy = "only tensors have dotted names, with their indices: `{found}[...]`"


class BadIndexCall(Fault):
    """`index(...)` of something that is not one axis."""

    code = "E125"
    message = "`index` gives the position along one axis, found {found}"
    remedy = "write `index(h)`"


class BadChain(Fault):
    """`chain` and layer calls mixed up inside `use`."""

    code = "E126"
    message = "found {found}, expected {expected}"
    remedy = "a layer takes sizes, `ssd(H = H)`; layers follow one another in `chain(a(D = D), b(D = D) * 3)`"


class OutsideLayer(Fault):
    """A statement that belongs to no layer."""

    code = "E127"
    message = "found {found} outside of any layer, expected `layer NAME(...) {{`"
    remedy = "every statement stands between the braces of a layer"


class NoLayer(Fault):
    """A file without a program in it."""

    code = "E128"
    message = "the text holds no layer"
    remedy = "a program is `layer NAME(SIZES) {{ ... }}`"


class TooManyFaults(Fault):
    """The reading was given up."""

    code = "E129"
    message = "more than {limit} faults; what follows was not read"


# ---- E2xx: names, sizes and declarations ----------------------------------------------------------------------------


class DuplicateName(Fault):
    code = "E201"
    message = "{what} '{name}' is defined twice"
    remedy = "each name is defined once in a layer; rename one of them"


class UnknownTensor(Fault):
    code = "E202"
    message = "there is no tensor or mask '{name}'"
    remedy = "{hint}"


class UnknownSize(Fault):
    code = "E203"
    message = "there is no size '{name}'"
    remedy = "{hint}"


class UnknownAxis(Fault):
    code = "E204"
    message = "there is no axis '{name}'"
    remedy = (
        "declare it: `axis {name}` takes its size from the inputs, `axis {name} = SIZE` fixes it; a position in time "
        "stands in the `time` statement"
    )


class BadSize(Fault):
    code = "E205"
    message = "{what}"
    remedy = "{hint}"


class MissingSize(Fault):
    code = "E206"
    message = "size '{name}' of layer '{layer}' has no value"
    remedy = "{hint}"


class NoTime(Fault):
    code = "E207"
    message = "layer '{name}' declares no time axis"
    remedy = "add `time t, s`"


class NoOutput(Fault):
    code = "E208"
    message = "layer '{name}' has no output"
    remedy = "end it with `output y`"


class BadGroups(Fault):
    code = "E209"
    message = "{what}"
    remedy = "{hint}"


class UnknownFunction(Fault):
    code = "E210"
    message = "there is no function '{name}'"
    remedy = "{hint}"


class BadCall(Fault):
    code = "E211"
    message = "{what}"
    remedy = "{hint}"


class UnknownLayer(Fault):
    code = "E212"
    message = "there is no layer '{name}' in this file"
    remedy = "{hint}"


class Circular(Fault):
    code = "E213"
    message = "the definition of '{name}' needs itself: {path}"
    remedy = "{hint}"


class BadType(Fault):
    code = "E214"
    message = "{what}"
    remedy = "{hint}"


class NestedName(Fault):
    code = "E215"
    message = "the parameter '{name}' cannot stand beside '{other}'"
    remedy = "both are keys of one state_dict, where a name is a tensor or a group of tensors: rename one"


class NoSizeFromInputs(Fault):
    code = "E216"
    message = "nothing gives the size of {axis}: {why}"
    remedy = "{hint}"


class UnknownInitialiser(Fault):
    code = "E250"
    message = "{found} is no part of an initialiser"
    remedy = (
        "initialisers are zeros, ones, constant(c), uniform(lo, hi), normal(std) and linear, and elementwise functions "
        "of these, of numbers and of sizes"
    )


class InitialiserArguments(Fault):
    code = "E251"
    message = "numbers given to '{name}': {found}; it takes {want}"
    remedy = "written zeros, ones, constant(c), uniform(lo, hi), normal(std), linear"


class EmptyRange(Fault):
    code = "E252"
    message = "uniform({low}, {high}) is empty: the first bound is to be less than the second"
    remedy = "uniform draws from lo up to hi; for one value write constant(c)"


class NegativeDeviation(Fault):
    code = "E253"
    message = "found the standard deviation {found}, expected one that is not negative"


class NoFanIn(Fault):
    code = "E254"
    message = "`linear` needs a parameter that a contraction sums over"
    remedy = "give the range: uniform(lo, hi)"


class NotANumber(Fault):
    code = "E255"
    message = "a distribution takes finite numbers, found {found}"
    remedy = "numbers, sizes and functions of them, such as log(0.001) or D ^ -0.5"


class BadInitialValue(Fault):
    code = "E256"
    message = "this initialiser gives values that are not finite"
    remedy = "logarithms, roots and quotients need arguments inside their domain: log(uniform(1, 16))"


class ParameterOverTime(Fault):
    code = "E257"
    message = "the parameter '{name}' runs along the time axis '{axis}', whose length each call decides"
    remedy = "give it an axis with a size, or make it an input"


# ---- E3xx: axes, time and the summation rule ------------------------------------------------------------------------


class WrongIndices(Fault):
    code = "E301"
    message = "'{name}' is declared as {declared}, and read here as {found}"
    remedy = "{hint}"


class SummedInsideFunction(Fault):
    code = "E302"
    message = "axis '{axis}' is summed, but occurs only inside the argument of '{function}'"
    remedy = (
        "readers disagree on what that means: give the inner product a line of its own, or write sum(... over {axis})"
    )


class MissingLeftAxis(Fault):
    code = "E303"
    message = "'{name}' has the {axes}, which nothing on the right has"
    remedy = "drop what the right lacks, or multiply by a tensor that has it"


class NeedsMask(Fault):
    code = "E304"
    message = "the reader position '{reader}' and the writer position '{writer}' meet without a mask"
    remedy = (
        "declare one and multiply by it: `mask M[{reader},{writer}] = causal` for all earlier positions, `full` for all"
    )


class BadPosition(Fault):
    code = "E305"
    message = "{what}"
    remedy = "{hint}"


class RepeatedAxis(Fault):
    code = "E306"
    message = "axis '{axis}' stands twice in the indices of '{name}'"
    remedy = "an axis may stand once; declare a second axis of the same size for the other place"


class SplitMismatch(Fault):
    code = "E307"
    message = "{what}"
    remedy = "{hint}"


# ---- E4xx: masks ----------------------------------------------------------------------------------------------------


class UnknownStructure(Fault):
    code = "E401"
    message = "there is no mask structure '{name}'"
    remedy = "{hint}"


class StructureArguments(Fault):
    code = "E402"
    message = "`{structure}` takes {expected}, {found} given"
    remedy = "written `{form}`"


class StructureFlag(Fault):
    code = "E403"
    message = "`{structure}` does not take the flag '{flag}'"
    remedy = "{hint}"


class RepeatedFlag(Fault):
    code = "E404"
    message = "the flag '{flag}' stands twice"
    remedy = "write it once: running backwards twice is not running forwards"


class StructureForm(Fault):
    code = "E405"
    message = "`{structure}` takes {expected}, found {found}"
    remedy = "written `{form}`"


class ArgumentReadsWriter(Fault):
    code = "E406"
    message = "the argument of `{structure}` reads the writer position '{writer}'"
    remedy = "write it at the reader position '{reader}': the structure itself says at which positions it is taken"


class DecayVaries(Fault):
    code = "E407"
    message = "the argument of `decay` varies with time ('{reader}')"
    remedy = "`decay` raises one value to the power of the lag; a gate a step is `semiseparable(...)`"


class BandWidth(Fault):
    code = "E408"
    message = "the width of a `band` is a whole number of positions, at least one; found {found}"
    remedy = "write a number or a size: `band(256)`, `band(W)`"


class KernelVaries(Fault):
    code = "E409"
    message = "the kernel of `{structure}` varies with time ('{reader}')"
    remedy = "a kernel holds one value a lag, the same at every position: drop '{reader}' from its indices"


class OpposedMasks(Fault):
    code = "E410"
    message = "a mask over earlier positions times one over later positions leaves {left}"
    remedy = "declare two masks and add the two contractions; a diagonal is a term without a mask"


class MaskPositions(Fault):
    code = "E431"
    message = "the last two axes of the mask '{name}' are not a reader and a writer position"
    remedy = (
        "write `mask {name}[...,{reader},{writer}] = ...`, the reader first, with `time {reader}, {writer}` declared"
    )


class MaskAxes(Fault):
    code = "E432"
    message = "the mask '{name}' is declared with {declared}, and its arguments have {found}"
    remedy = "the axes in front of the positions are those of the arguments: {want}"


# ---- E5xx: legal, but not lowered yet -------------------------------------------------------------------------------


class NotLowered(Fault):
    code = "E501"
    message = "{what} is legal, but not lowered yet"
    remedy = "{hint}"


# ---- E6xx: orders and plans -----------------------------------------------------------------------------------------


class OrderError(SsdcError, ValueError):
    """An order, chunk or backend that a layer does not admit, with the reason."""


class PlanError(SsdcError, ValueError):
    """A plan that cannot be made, or does not fit its program."""


# ---- E7xx: calls of a compiled module -------------------------------------------------------------------------------


class CallError(SsdcError, ValueError):
    """A bad call of a compiled module: a missing or surplus input, a wrong shape, device or size."""


class DtypeError(SsdcError, TypeError):
    """An input of a dtype that its declaration does not allow."""


class StateError(SsdcError, ValueError):
    """A state that does not belong to this layer or call, or a layer that has none."""
