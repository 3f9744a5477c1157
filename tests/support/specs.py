"""Random programs that mean something: a hypothesis strategy for whole layers, their inputs, and a place to cut.

A program has up to three masked terms in one equation, a normaliser beside it, a second equation on top of the first,
and
masks that are products of up to three structures. Everything is built to be valid: an error when checking one is a
bug, of
the compiler or of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Generator, Tensor

from tests.support.programs import log_gate, normal, plain_gate

Draw = st.DrawFn


@dataclass(frozen=True)
class Spec:
    """A program and one call of it: sizes, positions, the chunk, and where a prefill is cut."""

    text: str
    sizes: Mapping[str, int]
    inputs: Mapping[str, str] = field(repr=False)
    """Each input's axes, such as `b,t,h,n`; `t` is always second, or absent."""
    length: int
    chunk: int
    cut: int
    seed: int

    def draw(self, b: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Inputs: names with `a` are logarithms of gates, with `r` plain gates, `doc` numbers documents."""
        generator = torch.Generator().manual_seed(self.seed)
        sizes = {"b": b, "t": self.length, **{name.lower(): size for name, size in self.sizes.items()}}
        sizes["e"] = self.sizes["H"] * (self.sizes["P"] + self.sizes["N"])
        found: dict[str, Tensor] = {}
        for name, axes in self.inputs.items():
            shape = [sizes[axis] for axis in axes.split(",")]
            found[name] = _numbers(name)(generator, shape)
            if found[name].is_floating_point():
                found[name] = found[name].to(dtype)
        return found


def _numbers(name: str) -> Callable[[Generator, list[int]], Tensor]:
    if name == "doc":
        return lambda draw, shape: (torch.rand(shape, generator=draw) < 0.2).long().cumsum(-1)
    return {"a": log_gate, "r": plain_gate}.get(name[0], normal)


GATES = {
    "exp(a0[b,t,h])": "b,h", "exp(a1[b,t,h,n])": "b,h,n", "exp(a2[b,t])": "b", "sigmoid(x0[b,t,h])": "b,h",
    "r0[b,t,h]": "b,h",
    "r1[b,t,h,n]": "b,h,n", "sigmoid(f[h])": "h", "c[h]": "h", "sigmoid(fn[h,n])": "h,n", "exp(2 * a0[b,t-1,h])": "b,h",
    "exp(a0[b,t,h]) * sigmoid(f[h])": "b,h", "exp(-exp(f[h]) * sigmoid(x0[b,t,h]))": "b,h",
    "sqrt(sigmoid(x0[b,t,h]))": "b,h",
}  # fmt: skip
"""Gates and the axes that they give a mask."""
STEADY = ("sigmoid(f[h])", "c[h]", "sigmoid(fn[h,n])")
KERNELS = {"toeplitz(wj[h,j])": "h", "conv(wj[h,j])": "h", "conv(wn[n,j])": "n", "toeplitz(ws[j])": ""}
PARAMETERS = {
    "f": "f[h] ~ uniform(-1, 3)", "c": "c[h] ~ uniform(-1, 1)", "fn": "fn[h,n] ~ uniform(-1, 3)",
    "wj": "wj[h,j] ~ normal(1)",
    "wn": "wn[n,j] ~ normal(1)", "ws": "ws[j] ~ normal(1)", "u": "u[h,n] ~ normal(1)", "d": "d[h] ~ normal(1)",
}  # fmt: skip
INPUTS = {
    "a0": "b,t,h", "a1": "b,t,h,n", "a2": "b,t", "x0": "b,t,h", "r0": "b,t,h", "r1": "b,t,h,n", "doc": "b,t",
    "q": "b,t,h,n",
    "qg": "b,t,g,n", "qn": "b,t,n", "k": "b,t,h,n", "kg": "b,t,g,n", "kn": "b,t,n", "v": "b,t,h,p", "vg": "b,t,g,p",
    "vp": "b,t,p", "o": "b,t,h,p", "e": "b,t,e",
}  # fmt: skip
MAPS = ("{}", "{}", "{}", "{}", "tanh({})", "silu({})", "elu({}) + 1", "exp(0.3 * {})", "sigmoid({})")
ORDER = "bhn"


@st.composite
def masks(draw: Draw, name: str) -> tuple[str, str]:
    """A mask's statement and how a term reads it: a product of structures that run one way, or both."""
    if draw(st.integers(0, 11)) == 0:
        body = draw(st.sampled_from(["full", "documents(doc[b,t])", "full * documents(doc[b,t])"]))
        front = "b," if "doc" in body else ""
        return f"mask {name}[{front}t,s] = {body}", f"{name}[{front}t,s]"
    back = ["reverse"] if draw(st.integers(0, 5)) == 0 else []
    parts: list[str] = []
    axes: set[str] = set()
    for _ in range(draw(st.sampled_from([1, 1, 2, 2, 3]))):
        kind = draw(st.sampled_from(["gate", "gate", "gate", "decay", "plain", "band", "kernel", "doc"]))
        if kind in ("gate", "decay"):
            gate = draw(st.sampled_from(STEADY if kind == "decay" else tuple(GATES)))
            axes |= set(GATES[gate].split(","))
            strict = ["strict"] if kind == "gate" and draw(st.integers(0, 2)) == 0 else []
            flags = "".join(f", {flag}" for flag in strict + back)
            parts.append(f"{'semiseparable' if kind == 'gate' else 'decay'}({gate}{flags})")
        elif kind == "plain":
            flags = f"({', '.join(back)})" if back else ""
            parts.append(draw(st.sampled_from(["causal", "strict"])) + flags)
        elif kind == "band":
            parts.append(f"band(W{''.join(f', {flag}' for flag in back)})")
        elif kind == "kernel":
            kernel = draw(st.sampled_from(tuple(KERNELS)))
            axes |= set(KERNELS[kernel].split(",")) - {""}
            parts.append(kernel[:-1] + "".join(f", {flag}" for flag in back) + ")")
        else:
            axes.add("b")
            parts.append("documents(doc[b,t])")
    front = "".join(f"{axis}," for axis in ORDER if axis in axes)
    return f"mask {name}[{front}t,s] = {' * '.join(parts)}", f"{name}[{front}t,s]"


@st.composite
def factors(draw: Draw, choices: tuple[str, ...], at: str, made: dict[str, None]) -> str:
    """A tensor read at a position, or a function of one, defined on a line of its own (in `made`); or nothing."""
    name = draw(st.sampled_from(choices))
    if not name or name == "u":
        return name and "u[h,n]"
    axes, how, back = INPUTS[name], draw(st.sampled_from(range(len(MAPS)))), draw(st.integers(0, 6)) // 5
    if MAPS[how] == "{}":
        return f"{name}[{axes.replace('t', at if at == 's' or not back else 't-1', 1)}]"
    mapped = f"{name}{how}{back}"
    made[f"{mapped}[{axes}] = " + MAPS[how].format(f"{name}[{axes.replace('t', 't-1' if back else 't', 1)}]")] = None
    return f"{mapped}[{axes.replace('t', at, 1)}]"


@st.composite
def terms(draw: Draw, mask: str, made: dict[str, None]) -> tuple[str, str]:
    """A term over b, t, h, p, and the same without its value: its row sum."""
    reader = draw(factors(("q", "q", "qg", "qn", "u", ""), "t", made))
    writer = draw(factors(("k", "k", "kg", "kn", ""), "s", made))
    value = draw(factors(("v", "v", "vg", "vp"), "s", made))
    scale = draw(st.sampled_from(["", "", "0.5", "N ^ -0.5", "d[h]"]))
    second = draw(factors(("", "", "", "o"), "t", made))
    shared = [part for part in (scale, reader, mask, writer) if part]
    everything = " ".join((*shared, value))
    whole = [*shared, value, *([second] if second else [])]
    if not any(f"{axis}h" in everything for axis in ("[", ",")):
        whole.append("sigmoid(o[b,t,h,p])")
        shared.append("sigmoid(x0[b,t,h])")
    row = (
        shared
        if any("b," in part for part in shared) and any("h" in part for part in shared)
        else [*shared, "sigmoid(x0[b,t,h])"]
    )
    return " * ".join(draw(st.permutations(whole))), " * ".join(row)


@st.composite
def specs(draw: Draw) -> Spec:
    """A program, its sizes, and a call."""
    groups = draw(st.sampled_from([1, 2]))
    sizes = {
        "H": groups * draw(st.integers(1, 2)), "N": draw(st.integers(1, 3)), "P": draw(st.integers(1, 3)), "G": groups,
        "J": draw(st.integers(1, 5)), "W": draw(st.integers(1, 6)),
    }  # fmt: skip
    declared = [draw(masks(f"M{place}")) for place in range(draw(st.integers(1, 2)))]
    body, row = "", ""
    made: dict[str, None] = {}
    for place in range(draw(st.sampled_from([1, 1, 2, 3]))):
        term, plain = draw(terms(draw(st.sampled_from(declared))[1], made))
        body += (draw(st.sampled_from([" + ", " - "])) if place else "") + term
        row = row or plain
    skip = draw(st.sampled_from(["", "", " + d[h] * v[b,t,h,p]", " - v[b,t-2,h,p]"]))
    lines = [f"y[b,t,h,p] = {body}{skip}"]
    outputs = ["y"]
    if draw(st.integers(0, 2)) == 0:
        lines += [f"den[b,t,h] = {row}", "z[b,t,h,p] = y[b,t,h,p] / (1 + abs(den[b,t,h]))"]
        outputs.append("z")
    if draw(st.integers(0, 3)) == 0:
        statement, read = draw(masks("T"))
        declared.append((statement, read))
        lines += [f"bent[b,t,h,p] = tanh({outputs[-1]}[b,t,h,p])", f"w[b,t,h,p] = {read} * bent[b,s,h,p]"]
        outputs.append("w")
    text = "\n".join([*(statement for statement, _ in declared), *made, *lines])
    used = {name for name in (*INPUTS, *PARAMETERS) if f"{name}[" in _separate(text)}
    split = "k" in used and "v" in used and draw(st.integers(0, 3)) == 0
    if split:
        used = used - {"k", "v"} | {"e"}
        text = "v[b,t,(h p)], k[b,t,(h n)] = split(e[b,t,e])\n" + text
    inputs = {name: axes for name, axes in INPUTS.items() if name in used and (name != "e" or split)}
    parameters = [text for name, text in PARAMETERS.items() if name in used]
    header = [
        "layer spec(H, N, P, G, J, W) {", "time t, s", "axis b, h = H, n = N, p = P, j = J, e = H * P + H * N",
        "axis g = G groups h", "input " + ", ".join(f"{n}[{a}]{' : int' * (n == 'doc')}" for n, a in inputs.items()),
    ]  # fmt: skip
    if parameters:
        header.append("param " + ", ".join(parameters))
    length = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 31, 32, 33, 40]) | st.integers(0, 40))
    return Spec(
        "\n".join([*header, text, f"output {', '.join(outputs)}", "}"]), sizes, inputs, length,
        draw(st.sampled_from([16, 32])), draw(st.integers(0, length)), draw(st.integers(0, 2**20)),
    )  # fmt: skip


def _separate(text: str) -> str:
    """Text in which `f[` is found in `sigmoid(f[h])` and not in `diff[h]`: names stand after a space."""
    return "".join(c if c.isalnum() or c in "[_" else " " for c in text).replace(" ", "  ")
