"""Ejected modules run without ssdc, and compute what the compiled layer computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ssdc
from ssdc import pipeline
from ssdc.runtime.samples import sample_inputs

EXAMPLES = sorted(path for path in (Path(__file__).parent.parent / "examples").glob("*.ssd"))
SIZES = {"H": 4, "N": 16, "P": 16, "C": 8, "D": 32, "G": 2, "W": 4}

SCRIPT = """
import sys
import torch
sys.path.insert(0, {folder!r})
for name in {names!r}:
    module = __import__(name)
    weights, inputs, expected, steps, time, call = torch.load({folder!r} + "/" + name + ".pt")
    layer = module.Layer()
    layer.load_state_dict(weights)
    found = layer(**inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if steps is not None and hasattr(layer, "step"):
        state = layer.init_state(**call)
        for t, row in enumerate(steps):
            now = {{key: x if time[key] is None else x.select(time[key], t) for key, x in inputs.items()}}
            y, state = layer.step(state, **now)
            torch.testing.assert_close(y, row, rtol=1e-5, atol=1e-5)
    loss = sum(y.sum() for y in (found if isinstance(found, tuple) else (found,)))
    if any(p.requires_grad for p in layer.parameters()):
        loss.backward()
    print(name)
assert not any(name == "ssdc" or name.startswith("ssdc.") for name in sys.modules), "ssdc was imported"
"""


def _sizes(path: Path) -> dict[str, int]:
    names = [size.name for size in ssdc.check(path).program.layers[-1].sizes]
    return {name: SIZES[name] for name in names if name in SIZES}


@pytest.mark.timeout(300)
def test_ejected_modules_run_without_ssdc(tmp_path: Path) -> None:
    names = []
    for path in EXAMPLES:
        try:
            sizes = _sizes(path)
        except ssdc.SpecError:
            continue  # legal, but not lowered yet
        name = path.stem
        (tmp_path / f"{name}.py").write_text(pipeline.eject(path, sizes=sizes, length=64))
        layer = ssdc.compile(path, sizes=sizes)
        call = dict.fromkeys(layer.call_axes, 2)
        inputs = sample_inputs(layer, T=37, **call)
        with torch.no_grad():
            expected, steps = layer(**inputs), None
            if layer.causal:
                steps, state = [], layer.init_state(**call)
                for t in range(5):
                    y, state = layer.step(state, **_at(layer, inputs, t))
                    steps.append(y)
        time = {key: layer.time_of(key) for key in inputs}
        torch.save((layer.state_dict(), inputs, expected, steps, time, call), tmp_path / f"{name}.pt")
        names.append(name)
    script = SCRIPT.format(folder=str(tmp_path), names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == names and len(names) > 10


def _at(layer: torch.nn.Module, inputs: dict[str, Tensor], t: int) -> dict[str, Tensor]:
    return {key: x if (dim := layer.time_of(key)) is None else x.select(dim, t) for key, x in inputs.items()}


def test_parameters_are_drawn_as_in_the_layer() -> None:
    """Same shapes and names, and initial values from the same distributions (means within five standard errors)."""
    sizes = {"D": 512, "P": 8, "N": 16}
    text = pipeline.eject("examples/mamba2.ssd", sizes=sizes)
    space: dict[str, object] = {"__name__": "ejected_mamba2"}
    exec(compile(text, "ejected_mamba2.py", "exec"), space)
    torch.manual_seed(0)
    ejected = space["Layer"]()  # type: ignore[operator]
    ours, theirs = ssdc.compile("examples/mamba2.ssd", sizes=sizes).state_dict(), ejected.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in ours.items():
        error = 5 * (2 * value.var() / value.numel()) ** 0.5 + 1e-6
        assert (value.mean() - theirs[name].mean()).abs() < error, name
        assert 0.7 * value.std() <= theirs[name].std() <= 1.4 * value.std() + 1e-6, name
