"""ssdc: a compiler for linear-time sequence layers.

A layer is written as masked tensor contractions, `ssdc.compile` turns it into a torch module, `ssdc.reference` into its
definition in float64. Importing this package imports no torch.
"""

from __future__ import annotations

from ssdc.errors import CallError, DtypeError, OrderError, PlanError, SpecError, SsdcError, StateError
from ssdc.pipeline import check, compile, reference

__version__ = "0.1.0"

__all__ = [
    "CallError",
    "DtypeError",
    "OrderError",
    "PlanError",
    "SpecError",
    "SsdcError",
    "StateError",
    "check",
    "compile",
    "reference",
]
