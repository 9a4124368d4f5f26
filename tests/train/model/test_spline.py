"""Splines are zuko's, to rounding: knots, values, inverses, Jacobians, gradients, and the weights of a flow."""

from functools import partial

import pytest
import torch
import zuko
from zuko.transforms import MonotonicRQSTransform

from kinmass.train.model.spline import Spline, SplineFlow

#: Until 1.5 zuko's own slope was 1e-4.
THEIRS = partial(MonotonicRQSTransform, slope=1e-3)


def test_splines_are_those_of_the_library():
    generator = torch.Generator().manual_seed(0)
    parts = [3 * torch.randn(5, 40, 3, n, generator=generator, dtype=torch.float64) for n in (8, 8, 7)]
    x = 3 * torch.randn(5, 40, 3, generator=generator, dtype=torch.float64)  # some are beyond the bound
    ours, theirs = Spline(*parts), THEIRS(*parts)
    for name in ("horizontal", "vertical", "derivatives"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.inv(ours(x)), x)
    for found, expected in zip(ours.call_and_ladj(x), theirs.call_and_ladj(x), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.inv(x), theirs.inv(x))


def test_a_flow_has_the_weights_and_the_gradient_of_the_library_s():
    options = {"transforms": 2, "hidden_features": (16,), "passes": 2}
    torch.manual_seed(0)
    theirs = zuko.flows.MAF(4, 3, univariate=THEIRS, shapes=[(8,), (8,), (7,)], **options)
    ours = SplineFlow(4, 3, **options)
    ours.load_state_dict(theirs.state_dict())
    x, context = torch.randn(50, 4), torch.randn(50, 3)
    losses = [flow(context).log_prob(x).mean() for flow in (theirs, ours)]
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad(loss, list(flow.parameters())) for loss, flow in zip(losses, (theirs, ours), strict=True)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_flow_takes_weights_that_another_version_of_the_library_has_named():
    """Until 1.6 zuko called the mean and width of the base, which are 0 and 1, _0 and _1."""
    torch.manual_seed(0)
    trained, ours = SplineFlow(4, 3), SplineFlow(4, 3)
    weights = {name: weight for name, weight in trained.state_dict().items() if not name.startswith("base.")}
    model = torch.nn.ModuleDict({"bend": ours})
    ours_before = set(model.state_dict())
    model.load_state_dict(
        {f"bend.{k}": v for k, v in (weights | {"base._0": torch.zeros(4), "base._1": torch.ones(4)}).items()}
    )
    assert set(model.state_dict()) == ours_before
    x, context = torch.randn(50, 4), torch.randn(50, 3)
    assert torch.equal(ours(context).log_prob(x), trained(context).log_prob(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict(dict(list(weights.items())[1:]))
