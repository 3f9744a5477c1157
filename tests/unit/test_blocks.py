"""The vocabulary of generated text, where a device decides how it is evaluated."""

from __future__ import annotations

import pytest
import torch

from ssdc.runtime.blocks import _side_by_side, enter_products, leave_products, sums


@pytest.mark.parametrize("scan", [torch.cumsum, torch.cumprod])
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 16), (7,), (2, 3, 0), (0, 4)])
def test_rows_scanned_side_by_side_are_rows_scanned(scan: object, shape: tuple[int, ...]) -> None:
    """As a GPU does it: the same numbers in the same places of memory, and the same gradient."""
    x = torch.rand(shape, dtype=torch.float64).requires_grad_()
    found, wanted = _side_by_side(scan, x), scan(x, -1)  # type: ignore[operator, arg-type]
    assert torch.equal(found, wanted)
    assert found.is_contiguous()
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_scans_are_along_the_last_dimension() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    assert sums(x).tolist() == [[1, 3, 6], [2, 4, 6]]
    assert enter_products(x, None).tolist() == [[1, 2, 6], [2, 4, 8]]
    assert leave_products(x).tolist() == [[6, 3, 1], [4, 2, 1]]
