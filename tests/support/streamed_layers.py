"""Layers whose contractions the streamed and recurrent kernels serve, and how far they are from their equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import ssdc
from tests.support.launches import recorded
from tests.support.masked import units

LENGTH = 100
WIRED = 1e-4
"""How far gradients of a layer may be from those of its PyTorch text, relative to their norm: what is checked is that
each arrives; the kernels' own are held against float64."""
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
MIXED = """
layer mixed(H, N, P, W = 40) {
  time t, s
  axis b, h = H, n = N, p = P
  input q[b,t,h,n], k[b,t,h,n], v[b,t,h,p], a[b,t,h], dt[b,t,h]
  mask A[b,h,t,s] = band(W) * semiseparable(exp(-exp(a[b,t,h])), strict)
  mask B[b,h,t,s] = band(W, reverse) * semiseparable(sigmoid(a[b,t,h]), reverse)
  mask C[t,s] = band(W) * strict
  y[b,t,h,p] = q[b,t,h,n] * A[b,h,t,s] * k[b,s,h,n] * dt[b,s,h] * v[b,s,h,p]
  z[b,t,h,p] = q[b,t,h,n] * B[b,h,t,s] * k[b,s,h,n] * v[b,s,h,p]
  u[b,t,h,p] = q[b,t,h,n] * C[t,s] * k[b,s,h,n] * v[b,s,h,p]
  w[b,t,h,p] = y[b,t,h,p] + z[b,t,h,p] + u[b,t,h,p]
  output w
}
"""


DOCUMENTS = """
layer documents(H, N, P) {
  time t, s
  axis b, h = H, n = N, p = P
  input q[b,t,h,n], k[b,t,h,n], v[b,t,h,p], doc[b,t] : int
  mask M[b,t,s] = causal * documents(doc[b,t])
  y[b,t,h,p] = q[b,t,h,n] * k[b,s,h,n] * M[b,t,s] * v[b,s,h,p]
  output y
}
"""


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, LENGTH, *shape, generator=generator) for name, shape in shapes.items()}


def attention() -> dict[str, Tensor]:
    return tensors(q=(2, 16), k=(2, 16), v=(2, 24))


def packed() -> dict[str, Tensor]:
    documents = torch.randint(0, 4, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    return {**attention(), "doc": documents.sort(1)[0]}


def mixed() -> dict[str, Tensor]:
    return {**attention(), **tensors(a=(2,)), "dt": tensors(dt=(2,))["dt"].abs()}


def ssd() -> dict[str, Tensor]:
    return {**tensors(x=(4, 24), B=(2, 16), C=(2, 16)), "dt": tensors(dt=(4,))["dt"].abs()}


@dataclass(frozen=True)
class Served:
    """A layer, its order, and the kernel that serves it; `cut` is where a second call goes on (0: it has no state)."""

    source: str
    draw: Callable[[], dict[str, Tensor]]
    order: str = "auto"
    template: str = "streamed"
    cut: int = 47
    width: int = 40

    @property
    def sizes(self) -> dict[str, int]:
        common = {"N": 16, "P": 24}
        if self.draw is ssd:
            return {**common, "H": 4, "G": 2}
        return {**common, "H": 2} | ({"W": self.width} if "W" in self.source or "window" in self.source else {})


LAYERS = {
    "window": Served("examples/packed_window.ssd", packed),
    "window of one": Served("examples/packed_window.ssd", packed, width=1),
    "window, quadratic": Served("examples/packed_window.ssd", packed, "quadratic", width=150),
    "windows in one sum": Served(MIXED, mixed, cut=0),
    "documents, quadratic": Served(DOCUMENTS, packed, "quadratic"),
    "ssd, quadratic": Served("examples/ssd.ssd", ssd, "quadratic"),
    "ssd, recurrent": Served("examples/ssd.ssd", ssd, "recurrent", "recurrent"),
    "retention, quadratic": Served("examples/retention.ssd", attention, "quadratic"),
}


def checked(name: str, device: str, dtype: torch.dtype) -> tuple[list[float], set[str], list[float]]:
    """Errors in units of u * sum|terms| of a call at once, of a first and a second call, and of a step; the kernels
    that ran; in float32, relative differences of gradients from those of PyTorch text."""
    one = LAYERS[name]
    backend = "auto" if device == "cuda" else "triton"
    torch.manual_seed(0)
    layer = ssdc.compile(one.source, sizes=one.sizes, device=device, order=one.order, backend=backend)
    plain = ssdc.compile(one.source, sizes=one.sizes, device=device, order=one.order, backend="torch")
    plain.load_state_dict(layer.state_dict())
    exact = ssdc.reference(one.source, sizes=one.sizes)
    exact.load_state_dict({key: x.double().cpu() for key, x in layer.state_dict().items()})
    inputs = {key: x.to(dtype) if x.is_floating_point() else x for key, x in one.draw().items()}
    wide = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    wanted, magnitude = exact.bounds(**wide)
    moved = {key: x.to(device) for key, x in inputs.items()}

    def errors(y: Tensor, place: slice | int) -> list[float]:
        return units([y], [wanted[:, place]], [magnitude[:, place]], UNIT[dtype])

    with recorded() as launched:
        found = errors(layer(**moved), slice(None))
    templates = set(launched)
    if one.cut:
        before, state = layer(**{key: x[:, : one.cut] for key, x in moved.items()}, return_state=True)
        after, _ = layer(**{key: x[:, one.cut :] for key, x in moved.items()}, state=state, return_state=True)
        found += errors(torch.cat([before, after], 1), slice(None))
        with torch.no_grad():
            y, _ = layer.step(state, **{key: x[:, one.cut] for key, x in moved.items()})
        found += errors(y, one.cut)
    return found, templates, _gradients(layer, plain, moved) if dtype == torch.float32 else []


def _gradients(layer: torch.nn.Module, plain: torch.nn.Module, given: dict[str, Tensor]) -> list[float]:
    grads = []
    for model in (layer, plain):
        leaves = {key: x.clone().requires_grad_() if x.is_floating_point() else x for key, x in given.items()}
        model(**leaves).sin().sum().backward()
        learned = (*leaves.values(), *model.parameters())
        grads.append([x.grad for x in learned if x.grad is not None])
    return [float((a - b).norm() / (b.norm() + 1e-3)) for a, b in zip(*grads, strict=True)]
