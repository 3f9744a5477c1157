"""Runs layers whose elementwise work goes into Triton kernels, in the interpreter (a process of its own), and prints
errors: for each layer, of outputs in units of u times the reference's magnitude (prefill, continuation and step), and
of gradients relative to their norm against float64."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

import ssdc

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LENGTH, CUT = 70, 37

HEAD = """
layer l(H = 4, N = 16, P = 16, G = 2) {
  time t, s
  axis b, h = H, n = N, p = P
  axis g = G groups h
  input q[b,t,g,n], k[b,t,g,n], v[b,t,h,p], a[b,t,h]
  param D[h] ~ normal(1)
  param E[h,p] ~ normal(1)
  param F[p] ~ normal(1)
  mask L[b,h,t,s] = semiseparable(sigmoid(a[b,t,h]))
  mask R[b,h,t,s] = semiseparable(sigmoid(a[b,t,h]), reverse)
  mask S[b,h,t,s] = semiseparable(sigmoid(a[b,t,h]), strict)
"""
SUM = "q[b,t,g,n] * {mask}[b,h,t,s] * k[b,s,g,n] * v[b,s,h,p]"
SPECS = {
    "column": "y[b,t,h,p] = E[h,p] * v[b,t,h,p] + " + SUM,
    "columns alone": "y[b,t,h,p] = " + SUM + " - F[p] * v[b,t,h,p]",
    "one": "y[b,t,h,p] = " + SUM + " + v[b,t,h,p]",
    "product": "y[b,t,h,p] = " + SUM + " + D[h] * (2 * v[b,t,h,p]) * F[p] - F[p] + D[h]",
    "reverse": "y[b,t,h,p] = " + SUM.replace("{mask}", "R") + " + D[h] * v[b,t,h,p]",
    "strict": "y[b,t,h,p] = " + SUM.replace("{mask}", "S") + " + D[h] * v[b,t,h,p]",
    "read on": "u[b,t,h,p] = " + SUM + " + D[h] * v[b,t,h,p]\n  y[b,t,h,p] = tanh(u[b,t,h,p])",
    "maps": "f[b,t,h,p] = silu(v[b,t,h,p]) * 0.5\n  e[b,t,g,n] = sigmoid(2 - q[b,t,g,n]) / 3\n  y[b,t,h,p] = "
    "e[b,t,g,n] * L[b,h,t,s] * relu(k[b,s,g,n]) * a[b,s,h] * f[b,s,h,p] + D[h] * f[b,t,h,p]",
    "norm": "m[b,t,h,p] = " + SUM.replace("q[b,t,g,n]", "Q[b,t,g,n]").replace("k[b,s,g,n]", "K[b,s,g,n]")
    + "\n  d[b,t,h] = Q[b,t,g,n] * {mask}[b,h,t,s] * K[b,s,g,n]\n  Q[b,t,g,n] = sigmoid(q[b,t,g,n]) * 0.5"
    + "\n  K[b,t,g,n] = elu(k[b,t,g,n]) + 1\n  y[b,t,h,p] = m[b,t,h,p] / (0.5 + d[b,t,h])",
    "row first": "d[b,t,h] = q[b,t,g,n] * {mask}[b,h,t,s] * k[b,s,g,n]\n  m[b,t,h,p] = " + SUM
    + "\n  y[b,t,h,p] = m[b,t,h,p] / max(1, abs(d[b,t,h]))",
    "two uses": "m[b,t,h,p] = " + SUM + "\n  d[b,t,h] = q[b,t,g,n] * {mask}[b,h,t,s] * k[b,s,g,n]"
    + "\n  y[b,t,h,p] = m[b,t,h,p] / max(abs(d[b,t,h]), 1) + d[b,t,h]",
    "outside": "y[b,t,h,p] = (" + SUM + ") * 2 + a[b,t,h] * v[b,t,h,p]",
}  # fmt: skip
LAYERS = {
    "ssd": {"H": 4, "P": 16, "N": 16, "G": 2},
    "mamba2": {"D": 16, "P": 8, "N": 8, "G": 1},
    "linear_attention": {"H": 2, "N": 16, "P": 20},
    "retention": {"H": 3, "N": 16, "P": 16},
    "cosformer": {"H": 2, "N": 16, "P": 20},
    "mlstm": {"H": 2, "N": 16, "P": 20},
    "based": {"H": 2, "N": 4, "P": 16},
}


def layers() -> dict[str, tuple[str | Path, dict[str, int]]]:
    """Every layer by name: its source and sizes."""
    made: dict[str, tuple[str | Path, dict[str, int]]] = {
        name: (EXAMPLES / f"{name}.ssd", LAYERS[name]) for name in LAYERS
    }
    for name, body in SPECS.items():
        made[name] = (f"{HEAD}  {body.replace('{mask}', 'L')}\n  output y\n}}\n", {})
    return made


def errors(source: str | Path, sizes: dict[str, int]) -> dict[str, float]:
    """The largest error of each kind."""
    torch.manual_seed(0)
    layer = ssdc.compile(source, sizes=sizes, backend="triton")
    exact = ssdc.reference(source, sizes=sizes)
    exact.load_state_dict({name: x.double() for name, x in layer.state_dict().items()})
    given = {
        node.name: torch.randn([2 if a == ("b",) else LENGTH if a == ("t",) else _size(layer, a) for a in node.layout])
        for node in layer.graph.inputs
        if not node.name.startswith("@")
    }
    given = {name: x.abs() if name == "dt" else x for name, x in given.items()}
    wanted, magnitude = exact.bounds(**{name: x.double() for name, x in given.items()})
    found = {"prefill": _units(layer(**given), wanted, magnitude)}
    if layer.causal:
        first, at = layer(**{name: x[:, :CUT] for name, x in given.items()}, return_state=True)
        rest, _ = layer(**{name: x[:, CUT:] for name, x in given.items()}, state=at, return_state=True)
        found["continued"] = _units(torch.cat([first, rest], 1), wanted, magnitude)
        one, _ = layer.step(at, **{name: x[:, CUT] for name, x in given.items()})
        found["step"] = _units(one, wanted[:, CUT], magnitude[:, CUT])
    mine = _gradients(layer, given, torch.float32)
    other = _gradients(ssdc_double(layer, source, sizes), given, torch.float64)
    found["gradients"] = max(
        float((a.double() - b).norm() / (b.norm() + 1e-30)) for a, b in zip(mine, other, strict=True)
    )
    return found


def ssdc_double(layer: torch.nn.Module, source: str | Path, sizes: dict[str, int]) -> torch.nn.Module:
    """The layer by PyTorch, in float64."""
    plain = ssdc.compile(source, sizes=sizes, backend="torch", dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    return plain


def _size(layer, atoms: tuple[str, ...]) -> int:  # type: ignore[no-untyped-def]
    count = 1
    for atom in atoms:
        count *= layer.graph.sizes[atom]
    return count


def _units(found: Tensor, wanted: Tensor, magnitude: Tensor) -> float:
    return float(((found.detach().double() - wanted).abs() / (2.0**-24 * magnitude + 1e-37)).max())


def _gradients(layer: torch.nn.Module, given: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    leaves = {name: x.to(dtype, copy=True).requires_grad_() for name, x in given.items()}
    layer(**leaves).sin().sum().backward()
    return [x.grad for x in (*leaves.values(), *layer.parameters()) if x.grad is not None]


def main() -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1:]
    print(json.dumps({name: errors(*made) for name, made in layers().items() if not chosen or name in chosen}))


if __name__ == "__main__":
    main()
