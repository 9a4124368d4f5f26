"""The features of an ensemble's networks: one after another, or as one stacked network.

A GPU starts the small operations of a network more slowly than it does them, so that three networks in one call cost
it little more than one. A processor has no such idle time, and works longer on the stacked ones (1.4 times as long by
`python -m bench.gpu`, one thread).
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from kinmass.train.model.network import MassModel

# N views, F features, M members


class _Symmetric(nn.Module):
    """`MassModel.symmetric_features` as a module's own call, which `functional_call` needs."""

    def __init__(self, model: MassModel):
        super().__init__()
        self.model = model

    def forward(self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `MassModel.symmetric_features` does."""
        return self.model.symmetric_features(observed, half_mass_radius_kpc)


class Members:
    """The networks of an ensemble, of one architecture, or a single one. stacked: None where the device decides."""

    def __init__(self, models: Sequence[MassModel], stacked: bool | None = None):
        self._models = models
        if stacked is None:
            is_on_gpu = next(models[0].parameters()).device.type == "cuda"
            stacked = is_on_gpu and len(models) > 1 and models[0].config.join != "attention"  # which torch cannot stack
        self._state = stack_module_state([_Symmetric(model) for model in models]) if stacked else None
        self._skeleton = copy.deepcopy(_Symmetric(models[0])) if stacked else None

    @torch.no_grad()
    def features(
        self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return each member's features (N, F) of observed maps (N, C, P, P), and log10 (N,) of the mass unit [Msun].

        half_mass_radius_kpc (N,). Both ways give the same but for rounding.
        """
        if self._state is None or self._skeleton is None:
            pairs = [model.symmetric_features(observed, half_mass_radius_kpc) for model in self._models]
            return [features for features, _ in pairs], pairs[0][1]
        skeleton = self._skeleton

        def of_member(
            parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]
        ) -> tuple[torch.Tensor, ...]:
            """Return the features and mass units of the member with these parameters and buffers."""
            return functional_call(skeleton, (parameters, buffers), (observed, half_mass_radius_kpc))  # type: ignore[no-any-return]

        features, log10_unit = vmap(of_member)(*self._state)
        return list(features), log10_unit[0]
