"""Find the pixels that carry the information: integrated gradients of the inferred mass with respect to the maps."""

import numpy as np
import torch

from kinmass.train.model.scaling import only
from kinmass.train.run.posterior import Inference

# N views, R radii, P pixels along a side


def central_profile(infer: Inference, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor) -> torch.Tensor:
    """Return the profile (N, K), log10 M(<r) [Msun], at the origin of each member's latent space, mean over members.

    observed (N, 8, P, P), half_mass_radius_kpc (N,).
    """
    profiles = []
    for model in infer.models:
        features, unit = model.symmetric_features(observed, half_mass_radius_kpc)
        latent = torch.zeros(1, len(observed), len(model.config.radii_re) + 1, device=observed.device)
        profiles.append(model.profiles(features, unit, half_mass_radius_kpc, latent)[0])
    return torch.stack(profiles).mean(0)


def featureless(observed: torch.Tensor) -> torch.Tensor:
    """Return maps (N, 8, P, P) of a galaxy without structure in the same pixels: even density, V = 0, even sigma.

    sigma is the root of the density-weighted mean of V^2 + sigma^2, per tracer, so that the velocity scale is kept.
    """
    smooth = observed.clone()
    for start in (0, 4):
        density, velocity, dispersion, valid = observed[:, start : start + 4].unbind(1)
        total = density.sum((1, 2), keepdim=True).clamp(min=1e-30)
        mean_square = (density * (velocity**2 + dispersion**2)).sum((1, 2), keepdim=True) / total
        smooth[:, start] = valid * total / valid.sum((1, 2), keepdim=True).clamp(min=1)
        smooth[:, start + 1] = 0
        smooth[:, start + 2] = valid * mean_square.sqrt()
    return smooth


def attributions(
    infer: Inference,
    observed: torch.Tensor,
    half_mass_radius_kpc: torch.Tensor,
    tracer: str,
    radii: list[int],
    steps: int = 16,
) -> np.ndarray:
    """Return what each pixel adds to log10 M(<r) [dex] at the radii numbered `radii`: (N, R, 8, P, P).

    These are integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from `featureless` maps to the observed
    maps (N, 8, P, P), by the midpoint rule with `steps` steps. They sum to the difference of `central_profile` between
    the two, up to the error of that rule.
    """
    observed = (observed if tracer == "both" else only(observed, tracer)).to(infer.device)
    r_e, baseline = half_mass_radius_kpc.to(infer.device), featureless(observed)
    gradients = torch.zeros(len(radii), *observed.shape, device=observed.device)
    for step in range(steps):
        point = (baseline + (observed - baseline) * (step + 0.5) / steps).requires_grad_()
        profile = central_profile(infer, point, r_e)
        each = torch.eye(profile.shape[1], device=profile.device)[radii][:, None].expand(-1, len(profile), -1)
        (of_radii,) = torch.autograd.grad(profile, point, grad_outputs=each, is_grads_batched=True)
        gradients += of_radii / steps
    gradients = gradients.transpose(0, 1)
    return ((observed - baseline)[:, None] * gradients)[:, :, :8].cpu().numpy()
