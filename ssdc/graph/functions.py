"""The functions of the language: how many arguments each takes, and how folds treat their axes."""

from __future__ import annotations

from collections.abc import Mapping

ELEMENTWISE: Mapping[str, tuple[int, int]] = {
    "exp": (1, 1), "log": (1, 1), "sqrt": (1, 1), "rsqrt": (1, 1), "abs": (1, 1), "sin": (1, 1), "cos": (1, 1),
    "tanh": (1, 1), "sigmoid": (1, 1), "silu": (1, 1), "softplus": (1, 1), "relu": (1, 1), "gelu": (1, 1),
    "elu": (1, 1), "logsigmoid": (1, 1), "sign": (1, 1), "log1p": (1, 1), "expm1": (1, 1),
    "min": (2, 8), "max": (2, 8), "clamp": (3, 3), "where": (3, 3),
}  # fmt: skip
"""Name: fewest and most arguments. `log1p` and `expm1` also arise in logarithms of gates."""

REDUCTIONS = ("sum", "mean", "max", "min")
"""Folds that drop the axes they run over."""

NORMS: Mapping[str, float | None] = {"rmsnorm": 1e-5, "layernorm": 1e-5, "l2norm": 1e-6, "softmax": None}
"""Folds that keep their axes, and the default of `eps` (None: takes none)."""
