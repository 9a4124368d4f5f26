"""Networks of an ensemble give the same in one stacked call as one after another."""

import pytest
import torch

from kinmass.gen.instruments.observe import CHANNELS, CHANNELS_TOLD
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.run.ensemble import Members


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tracer": "any", "told": True},
        {"tracer": "gas", "encoder": "residual", "inputs": "raw"},
        {"join": "gated", "encoder": "plain", "head": "mixture"},
    ],
)
def test_stacked_networks_are_the_networks(options):
    torch.manual_seed(0)
    config = ModelConfig(
        **({"tracer": "both", "radii_re": RADII_RE, "pixels": 16, "field_of_view_re": 6.0, "width": 4} | options)
    )
    models = [MassModel(config).eval() for _ in range(3)]
    observed = torch.rand(5, CHANNELS_TOLD if config.told else CHANNELS, 16, 16) + 0.5
    r_e = torch.linspace(1, 8, 5)
    in_turn, unit = Members(models, stacked=False).features(observed, r_e)
    stacked, stacked_unit = Members(models, stacked=True).features(observed, r_e)
    torch.testing.assert_close(stacked_unit, unit)
    for features, expected in zip(stacked, in_turn, strict=True):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(in_turn[0], in_turn[1], atol=1e-2)
