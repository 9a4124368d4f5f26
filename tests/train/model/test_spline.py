"""Splines are zuko's, to rounding: knots, values, inverses, Jacobians, gradients, and the weights of a flow."""

import torch
import zuko
from zuko.transforms import MonotonicRQSTransform

from kinmass.train.model.spline import Spline, SplineFlow


def test_splines_are_those_of_the_library():
    generator = torch.Generator().manual_seed(0)
    parts = [3 * torch.randn(5, 40, 3, n, generator=generator, dtype=torch.float64) for n in (8, 8, 7)]
    x = 3 * torch.randn(5, 40, 3, generator=generator, dtype=torch.float64)  # some are beyond the bound
    ours, theirs = Spline(*parts), MonotonicRQSTransform(*parts)
    for name in ("horizontal", "vertical", "derivatives"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.inv(ours(x)), x)
    for found, expected in zip(ours.call_and_ladj(x), theirs.call_and_ladj(x), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.inv(x), theirs.inv(x))


def test_a_flow_has_the_weights_and_the_gradient_of_the_library_s():
    options = {"transforms": 2, "hidden_features": (16,), "passes": 2}
    torch.manual_seed(0)
    theirs, ours = zuko.flows.NSF(4, 3, **options), SplineFlow(4, 3, **options)
    ours.load_state_dict(theirs.state_dict())
    x, context = torch.randn(50, 4), torch.randn(50, 3)
    losses = [flow(context).log_prob(x).mean() for flow in (theirs, ours)]
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad(loss, list(flow.parameters())) for loss, flow in zip(losses, (theirs, ours), strict=True)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
