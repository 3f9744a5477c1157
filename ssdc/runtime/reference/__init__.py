"""The float64 reference: programs evaluated straight from their equations, and how far float32 may be from that.

`Reference` evaluates the syntax tree, position by position where it must; it shares nothing with the graph, the planner
and the generated code, so that agreement with it means something. `Reference.bounds` is the tolerance of all tests.

    module      the torch module: calls, steps, state      masks, structures   M[t,s] by definition
    calls       arguments, sizes, documents                contract, paths     one term, contracted pair by pair
    evaluation  statements of one evaluation               recursion           forward substitution
    equations   the summation rule, split                  value, functions    arithmetic on labelled tensors
    expressions elementwise expressions, reading           bounds              error magnitudes and their derivation
"""

from ssdc.runtime.reference.bounds import Rounding
from ssdc.runtime.reference.calls import State
from ssdc.runtime.reference.module import Reference
from ssdc.runtime.reference.value import EvaluationError

__all__ = ["EvaluationError", "Reference", "Rounding", "State"]
