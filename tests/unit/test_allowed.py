"""The allow-list passes what the generator writes, and nothing that could reach outside it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ssdc
from ssdc.errors import PlanError
from ssdc.runtime.allowed import check

EXAMPLES = sorted(Path("examples").glob("*.ssd"))
SIZES = {"H": 4, "N": 16, "P": 16, "C": 8, "D": 32}


@pytest.mark.parametrize("order", ["recurrent", "quadratic", "chunked", "scan", "direct"])
def test_generated_text_passes(order: str) -> None:
    for path in ("examples/ssd.ssd", "examples/hydra.ssd", "examples/packed_window.ssd", "examples/attention.ssd"):
        names = {size.name for size in ssdc.check(path).program.layers[-1].sizes}
        try:
            layer = ssdc.compile(path, sizes={name: SIZES[name] for name in names & SIZES.keys()}, order=order)
        except ssdc.OrderError:
            continue
        check(layer.text(b=1, T=64))


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "from os import path",
        "import torch\ndef forward(x):\n    return x.__class__",
        "def forward(x):\n    return eval('1')",
        "def forward(x):\n    return open('a.b')",
        "def forward(x):\n    return _hidden(x)",
        "def forward(x):\n    return (lambda: x)()",
        "def forward(x):\n    while True:\n        pass",
        "def forward(x):\n    return 'a string; with more'",
        "def forward(x):\n    return [y for y in x]",
        "@cache\ndef forward(x):\n    return x",
        "class Forward:\n    pass",
        "def forward(x):\n    global y",
        "def forward(x):\n    try:\n        return x\n    finally:\n        pass",
        "def forward(x):\n    return f'{x}'",
        "async def forward(x):\n    return x",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        check(text)


def test_ordinary_text_passes() -> None:
    check('"""A text."""\nimport torch\ndef forward(x):\n    """All."""\n    return torch.einsum("ab,bc->ac", x, x)')
