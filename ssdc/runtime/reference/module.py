"""`Reference`: a layer evaluated straight from its equations in float64, as a torch module.

In: a resolved scope (its syntax tree and sizes), and for layers that use others a way to their scopes. Out: a module
called like a compiled one. Nothing of the planner, the graph or the generated code takes part. Its state is the whole
past: going on evaluates past and present together and returns the present.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ssdc.errors import CallError, ParameterOverTime, SpecError, StateError
from ssdc.runtime.initialisers import initialise
from ssdc.runtime.parameters import declare, default_initialiser, lookup
from ssdc.runtime.reference.bounds import Rounding
from ssdc.runtime.reference.calls import Bound, State, bind, cut, documents, pick, time_axis
from ssdc.runtime.reference.evaluation import Evaluation, ScopeLike, opened, output_names, stored, stored_shape
from ssdc.runtime.reference.expressions import axes_of
from ssdc.runtime.reference.masks import READER, WRITER
from ssdc.runtime.reference.models import members_of
from ssdc.runtime.reference.streams import streams
from ssdc.runtime.reference.value import Arithmetic, EvaluationError, Value, lay_out
from ssdc.source import Source
from ssdc.syntax import ast

Resolve: TypeAlias = Callable[[str, Mapping[str, int]], ScopeLike]
"""The scope of the layer of that name with those sizes."""

Outputs: TypeAlias = Tensor | tuple[Tensor, ...]


class Reference(nn.Module):
    """The definition of a layer, in float64.

    `resolve` gives the scopes of the layers that this one uses, `source` is what diagnostics show. Parameters are
    float64 (complex128), initialised in declared order, under their declared names.

    Inputs are given in declared order or by name and read as float64 (complex128); a `bool` or `int` input is not cast
    from a float. Autograd works through every call.
    """

    def __init__(self, scope: ScopeLike, *, resolve: Resolve | None = None, source: Source | None = None) -> None:
        super().__init__()
        self.scope = scope
        statements = scope.layer.statements
        self.inputs = tuple(entry for part in statements if isinstance(part, ast.Inputs) for entry in part.entries)
        self.params = tuple(entry for part in statements if isinstance(part, ast.Params) for entry in part.entries)
        self.outputs = output_names(scope.layer)
        self.used: dict[str, nn.Module] = {}
        for param in self.params:
            self._declare(param, source)
        for use in (part for part in statements if isinstance(part, ast.Use)):
            if resolve is None:
                raise EvaluationError(f"'{use.name}' uses a layer, and no way to its scope was given")
            self._use(use, resolve, source)

    def _declare(self, param: ast.Param, source: Source | None) -> None:
        scope, name = self.scope, param.tensor.name
        names = axes_of(param.tensor.indices)
        for label in names:
            if label in (scope.reader, *scope.writers):
                fault = ParameterOverTime(param.tensor.span, name=name, axis=label)
                raise SpecError(source or Source(""), [fault])
        sizes = {axis: size for axis in names if (size := scope.axes[axis].size) is not None}
        if len(sizes) < len(set(names)):
            raise EvaluationError(f"the parameter '{name}' has an axis without a size")
        default, fan_in = default_initialiser(scope, name)
        tensor = initialise(
            param.init or default, stored_shape(param.tensor, sizes), sizes=scope.sizes, fan_in=fan_in,
            axes=[index.name if isinstance(index, ast.AxisIndex) else "" for index in param.tensor.indices],
            kind=param.kind, dtype=torch.float64, source=source,
        )  # fmt: skip
        declare(self, name, nn.Parameter(tensor))

    def _use(self, use: ast.Use, resolve: Resolve, source: Source | None) -> None:
        made: list[Reference] = []
        single = isinstance(use.model, ast.Instance)
        for layer, sizes in members_of(use.model, self.scope.sizes):
            made.append(Reference(resolve(layer, sizes), resolve=resolve, source=source))
        self.used[use.name] = made[0] if single else nn.ModuleList(made)
        self._modules[use.name] = self.used[use.name]

    # ---- calls -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        *args: Tensor,
        state: State | tuple[State, ...] | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        **kwargs: Tensor,
    ) -> Any:
        """The outputs (one tensor, or a tuple of several); with `return_state`, a pair of these and the state.

        With `cu_seqlens`, offsets from 0 to T, each document is evaluated by itself; states are then tuples of one
        state a document. Raises CallError, DtypeError or StateError for a bad call, EvaluationError for a bad program.
        """
        call = bind(self.scope, self.inputs, args, kwargs)
        if cu_seqlens is None:
            if isinstance(state, tuple):
                raise StateError("a tuple of states goes with cu_seqlens")
            outputs, after = self._continue(call, state, return_state)
            return (_one(outputs), after) if return_state else _one(outputs)
        spans = documents(cu_seqlens, call.length)
        states = state if isinstance(state, tuple) else (state,) * len(spans)
        if isinstance(state, State) or len(states) != len(spans):
            raise StateError(f"{len(spans)} documents take a tuple of {len(spans)} states")
        parts = [
            self._continue(cut(call, span), before, return_state) for span, before in zip(spans, states, strict=True)
        ]
        joined = _one(self._joined([outputs for outputs, _ in parts]))
        return (joined, tuple(after for _, after in parts)) if return_state else joined

    def init_state(self, **sizes: int) -> State:
        """The state before the first position. Sizes, such as `b=4`, are checked against later calls."""
        unknown = set(sizes) - set(self.scope.axes)
        if unknown:
            raise StateError(f"there is no axis '{min(unknown)}'")
        return State({}, dict(sizes))

    def step(self, state: State, *args: Tensor, **kwargs: Tensor) -> tuple[Outputs, State]:
        """One position: the inputs and outputs of a call without their time axis, and the state after it."""
        names = [entry.tensor.name for entry in self.inputs]
        given = dict(zip(names, args, strict=False)) | kwargs
        places = {entry.tensor.name: time_axis(entry.tensor, self.scope.reader) for entry in self.inputs}
        if len(args) > len(names) or len(given) < len(args) + len(kwargs):
            raise CallError(f"a step of '{self.scope.layer.name}' takes {', '.join(names)}, once each")
        whole = {
            name: tensor if (at := places.get(name)) is None else tensor.unsqueeze(at) for name, tensor in given.items()
        }
        outputs, after = self.forward(state=state, return_state=True, **whole)
        several = (outputs,) if isinstance(outputs, Tensor) else outputs
        axes = [time_axis(ref, self.scope.reader) for ref in self._output_refs()]
        return _one([y if at is None else y.squeeze(at) for y, at in zip(several, axes, strict=True)]), after

    @torch.no_grad()
    def bounds(
        self,
        *args: Tensor,
        dtype: torch.dtype = torch.float32,
        products: bool = False,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        **kwargs: Tensor,
    ) -> tuple[Outputs, Outputs]:
        """The outputs and their error magnitudes m: arithmetic in `dtype`, in any order, is within 16 * u * m.

        u is half of torch.finfo(dtype).eps. What m includes, and why, is in `ssdc.runtime.reference.bounds`. `products`
        widens it for orderings that multiply gates step by step over long runs of equal gates. A magnitude is Inf where
        nothing can be promised.
        """
        call = bind(self.scope, self.inputs, args, kwargs)
        spans = [slice(0, call.length)] if cu_seqlens is None else documents(cu_seqlens, call.length)
        values, sizes = [], []
        for span in spans:
            part = call if cu_seqlens is None else cut(call, span)
            found = self._evaluate(part, Rounding(dtype, products))
            values.append([value.data for value in found])
            sizes.append([value.bound for value in found if value.bound is not None])
        magnitudes = [torch.where(m.isnan(), torch.inf, m) for m in self._joined(sizes)]
        return _one(self._joined(values)), _one(magnitudes)

    @torch.no_grad()
    def masks(self, *args: Tensor, **kwargs: Tensor) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """The masks that a call reads, written out: of each its axes before the two positions, and M [*axes, T, T]."""
        call = bind(self.scope, self.inputs, args, kwargs)
        maths = Arithmetic(self._groups(), {}, None)
        run = self._evaluation(_exact(call, maths), call.sizes, call.length, maths)
        run.outputs()
        found = {}
        for name, mask in run.masks.items():
            labels = (*mask.front, READER, WRITER)
            shape = [run.maths.sizes[label] for label in labels]
            found[name] = (mask.front, lay_out(mask.whole.data, mask.whole.labels, labels).expand(shape))
        return found

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def _continue(self, call: Bound, state: State | None, keep: bool) -> tuple[list[Tensor], State | None]:
        if (state is not None or keep) and not streams(self.scope, self.used):
            raise StateError(f"'{self.scope.layer.name}' reads later positions, so that no state can carry it on")
        whole, past = (call, 0) if state is None else state.followed_by(call)
        outputs = [value.data for value in self._evaluate(whole, None)]
        axes = [time_axis(ref, self.scope.reader) for ref in self._output_refs()]
        shown = [pick(y, at, slice(past, None)) for y, at in zip(outputs, axes, strict=True)]
        return shown, State(dict(whole.tensors), dict(whole.sizes)) if keep else None

    def _evaluate(self, call: Bound, rounding: Rounding | None) -> list[Value]:
        """The outputs as they are stored."""
        maths = Arithmetic(self._groups(), {}, rounding)
        return self._run(_exact(call, maths), call.sizes, call.length, maths)

    def _run(self, given: Mapping[str, Value], sizes: Mapping[str, int], length: int, outer: Arithmetic) -> list[Value]:
        run = self._evaluation(given, sizes, length, outer)
        results = zip(self._output_refs(), run.outputs(), strict=True)
        return [stored(ref, value, run.maths.sizes) for ref, value in results]

    def _evaluation(
        self, given: Mapping[str, Value], sizes: Mapping[str, int], length: int, outer: Arithmetic
    ) -> Evaluation:
        scope = self.scope
        times = dict.fromkeys((scope.reader, *scope.writers, READER, WRITER), length)
        fixed = {name: axis.size for name, axis in scope.axes.items() if axis.size is not None}
        maths = Arithmetic(self._groups(), {**fixed, **sizes, **times}, outer.rounding)
        values = {
            entry.tensor.name: opened(entry.tensor, given[entry.tensor.name], maths.sizes) for entry in self.inputs
        }
        for param in self.params:
            tensor = _wide(lookup(self, param.tensor.name))
            value = maths.exact(tuple(map(str, range(tensor.dim()))), tensor)
            values[param.tensor.name] = opened(param.tensor, value, maths.sizes)
        models = {name: _caller(module) for name, module in self.used.items()}
        return Evaluation(scope, maths, length, values, models)

    def called_with(self, arguments: Sequence[Value], outer: Arithmetic) -> list[Value]:
        """A call from another layer: stored tensors with their magnitudes in and out."""
        names = [entry.tensor.name for entry in self.inputs]
        if len(arguments) != len(names):
            raise EvaluationError(f"'{self.scope.layer.name}' takes {len(names)} tensors, {len(arguments)} are given")
        call = bind(self.scope, self.inputs, [value.data for value in arguments], {}, cast=False)
        return self._run(dict(zip(names, arguments, strict=True)), call.sizes, call.length, outer)

    def _groups(self) -> dict[str, str]:
        return {name: axis.groups for name, axis in self.scope.axes.items() if axis.groups is not None}

    def _output_refs(self) -> list[ast.TensorRef]:
        defines = (part for part in self.scope.layer.statements if isinstance(part, ast.Define))
        refs = {target.name: target for part in defines for target in part.targets}
        refs.update({entry.tensor.name: entry.tensor for entry in self.inputs})
        refs.update({param.tensor.name: param.tensor for param in self.params})
        return [refs[name] for name in self.outputs]

    def _joined(self, parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The outputs of documents one after another; one without a time axis is that of the last."""
        axes = [time_axis(ref, self.scope.reader) for ref in self._output_refs()]
        return [
            parts[-1][place] if at is None else torch.cat([part[place] for part in parts], at)
            for place, at in enumerate(axes)
        ]


def _caller(module: nn.Module) -> Callable[[Sequence[Value], Arithmetic], list[Value]]:
    if isinstance(module, Reference):
        return module.called_with

    def chained(arguments: Sequence[Value], outer: Arithmetic) -> list[Value]:
        values = list(arguments)
        assert isinstance(module, nn.ModuleList)
        for member in module:
            assert isinstance(member, Reference)
            values = member.called_with(values, outer)
        return values

    return chained


def _exact(call: Bound, maths: Arithmetic) -> dict[str, Value]:
    """The tensors of a call, without errors, labelled by dimension number."""
    return {name: maths.exact(tuple(map(str, range(tensor.dim()))), tensor) for name, tensor in call.tensors.items()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _one(outputs: Sequence[Tensor]) -> Outputs:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
