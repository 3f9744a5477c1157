"""`form=` and `plan=` on a GPU: every form asked for agrees with PyTorch, and a saved plan gives the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ssdc
from ssdc import CallError, OrderError
from ssdc.plan.asked import KERNEL_FORMS
from tests.support.device import DEVICE, marks

pytestmark = marks
SSD = Path(__file__).parents[2] / "examples" / "ssd.ssd"
ALLOWED = {torch.float32: 3e-5, torch.bfloat16: 2e-2}
"""The largest difference, as a share of the largest output."""
WIDE = {"walk": 128, "segments": 128}
"""The most states of forms that keep them in registers."""


@pytest.mark.parametrize("form", ["auto", *KERNEL_FORMS])
@pytest.mark.parametrize("states", [16, 64, 128, 256])
def test_a_form_and_its_saved_plan(form: str, states: int, tmp_path: Path) -> None:
    sizes = {"H": 4, "N": states}
    if states > WIDE.get(form, 256):
        with pytest.raises(OrderError, match="in registers"):
            ssdc.compile(SSD, sizes=sizes, form=form, device=DEVICE)
        return
    plain = ssdc.compile(SSD, sizes=sizes, backend="torch", device=DEVICE)
    layer = ssdc.compile(SSD, sizes=sizes, form=form, device=DEVICE)
    layer.load_state_dict(plain.state_dict())
    layer.save_plan(tmp_path / "plan.json", b=2, T=300)
    again = ssdc.compile(SSD, sizes=sizes, plan=tmp_path / "plan.json", device=DEVICE)
    again.load_state_dict(plain.state_dict())
    for dtype, allowed in ALLOWED.items():
        for length in (1, 16, 300, 5000):
            torch.manual_seed(length)
            shapes = (2, length, 4, 64), (2, length, 4), (2, length, 1, states), (2, length, 1, states)
            x, dt, B, C = (torch.randn(shape, device=DEVICE) for shape in shapes)
            given = [one.to(dtype).requires_grad_() for one in (x, dt.sigmoid(), B / states**0.5, C)]
            if form == "hopper" and (dtype == torch.float32 or torch.cuda.get_device_capability()[0] != 9):
                with pytest.raises(CallError, match="Hopper GPUs"):
                    layer(*given)
                continue
            wanted, found = plain(*given).float(), layer(*given)
            assert (found.float() - wanted).abs().max() <= allowed * wanted.abs().max(), (dtype, length)
            assert torch.equal(found, again(*given)), (dtype, length)
            slopes = torch.autograd.grad(found.float().square().sum(), given)
            expected = torch.autograd.grad(wanted.square().sum(), given)
            for one, other in zip(slopes, expected, strict=True):
                assert (one - other).abs().max() <= 4 * allowed * other.abs().max(), (dtype, length)
