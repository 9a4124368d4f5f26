"""Which pixels carry the information: integrated gradients of an inferred mass with respect to the observed maps."""

import numpy as np
import torch

from kinmass.train.model.scaling import only
from kinmass.train.run.posterior import Inference

# N views, R radii, P pixels along a side


def central_profile(infer: Inference, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor) -> torch.Tensor:
    """(N, K) log10 M(<r) [Msun] that the middle of each member's latent numbers stands for, mean over members."""
    found = []
    for model in infer.models:
        features, unit = model.features(observed, half_mass_radius_kpc)
        middle = torch.zeros(1, len(observed), len(model.config.radii_re) + 1, device=observed.device)
        found.append(model.profiles(features, unit, half_mass_radius_kpc, middle)[0])
    return torch.stack(found).mean(0)


def featureless(observed: torch.Tensor) -> torch.Tensor:
    """The same pixels (N, 8, P, P) of a galaxy without structure: even density, no V, an even sigma.

    sigma is the root of the mean of V^2 + sigma^2 weighted by density, per tracer: the velocity scale stays.
    """
    plain = observed.clone()
    for start in (0, 4):
        density, velocity, dispersion, valid = observed[:, start : start + 4].unbind(1)
        total = density.sum((1, 2), keepdim=True).clamp(min=1e-30)
        square = (density * (velocity**2 + dispersion**2)).sum((1, 2), keepdim=True) / total
        plain[:, start] = valid * total / valid.sum((1, 2), keepdim=True).clamp(min=1)
        plain[:, start + 1] = 0
        plain[:, start + 2] = valid * square.sqrt()
    return plain


def attributions(
    infer: Inference,
    observed: torch.Tensor,
    half_mass_radius_kpc: torch.Tensor,
    tracer: str,
    radii: list[int],
    steps: int = 16,
) -> np.ndarray:
    """(N, R, 8, P, P) what each pixel adds to log10 M(<r) [dex] at the radii numbered `radii`.

    Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from `featureless` maps to the observed
    (N, 8, P, P), by the midpoint rule: they sum to the difference of `central_profile` between the two.
    """
    observed = (observed if tracer == "both" else only(observed, tracer)).to(infer.device)
    r_e, start = half_mass_radius_kpc.to(infer.device), featureless(observed)
    total = torch.zeros(len(observed), len(radii), *observed.shape[1:], device=observed.device)
    for step in range(steps):
        at = (start + (observed - start) * (step + 0.5) / steps).requires_grad_()
        profile = central_profile(infer, at, r_e)
        for i, k in enumerate(radii):
            (gradient,) = torch.autograd.grad(profile[:, k].sum(), at, retain_graph=i < len(radii) - 1)
            total[:, i] += gradient / steps
    return ((observed - start)[:, None] * total).cpu().numpy()
