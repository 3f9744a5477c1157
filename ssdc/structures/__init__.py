"""The mask structures: what each is in algebra, and the facts that a planner may ask of it.

`STRUCTURES` names them all, one module each. `facts.facts_of` asks one of them, `product.product` combines several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ssdc.structures import (
    band,
    causal,
    conv,
    decay,
    dense,
    documents,
    fenwick,
    full,
    semiseparable,
    strict,
    toeplitz,
)
from ssdc.structures.algebra import Facts, Scope
from ssdc.syntax import ast

Rule: TypeAlias = Callable[[ast.Structure, Scope], Facts]

STRUCTURES: Mapping[str, Rule] = {
    "full": full.facts,
    "causal": causal.facts,
    "strict": strict.facts,
    "decay": decay.facts,
    "semiseparable": semiseparable.facts,
    "band": band.facts,
    "toeplitz": toeplitz.facts,
    "conv": conv.facts,
    "documents": documents.facts,
    "fenwick": fenwick.facts,
    "dense": dense.facts,
}
