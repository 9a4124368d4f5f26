"""What light does on its way: the PSF, pointing and pixels."""

import math

import torch

from kinmass.gen.instruments.bins import block_sums

# N views, C channels, P stored pixels along a side, Q observed ones
SIGMA_PER_FWHM = 1 / 2.3548
#: A PSF four fields wide is as good as uniform.
_WIDEST_FIELDS = 4.0
#: Standard deviation [pixels] of the blur that moving a map by a part of a pixel takes at least.
_INTERPOLATION = 0.3


def psf_matrix(like: torch.Tensor, fwhm_pixels: float | torch.Tensor) -> torch.Tensor | None:
    """Return the matrix A of a round Gaussian PSF: A @ image @ A.T is the blurred image.

    A is (P, P) for one FWHM, (N, 1, P, P) for FWHMs (N,), None for an FWHM of 0. Beyond the map its edge pixels
    are repeated. For maps of this size matrices are many times faster than convolutions. Each view's matrix depends on
    its own FWHM alone, and nothing here waits for a GPU.
    """
    n = like.shape[-1]
    widest = _WIDEST_FIELDS * n
    scale: float | torch.Tensor
    if isinstance(fwhm_pixels, torch.Tensor):
        scale = (2.3548 / fwhm_pixels.clamp(max=widest)).to(like.dtype)[:, None, None]
    elif fwhm_pixels > 0:
        scale = 2.3548 / min(fwhm_pixels, widest)
    else:
        return None
    distance = torch.arange(n + int(2 * widest), dtype=like.dtype, device=like.device)
    weight = _gaussian(distance * scale)
    # Light from as far as the edge and farther: what all pixels beyond the map, alike with the edge's, give together.
    beyond = weight @ (distance[:, None] >= distance[1 : n + 1]).to(like.dtype)
    pixel = torch.arange(n, device=like.device)
    inside = weight[..., (pixel[:, None] - pixel).abs()]
    inside[..., 0] += beyond
    inside[..., -1] += beyond.flip(-1)
    return inside / inside.sum(-1, keepdim=True)


def moved_psf_matrix(like: torch.Tensor, fwhm_pixels: torch.Tensor, shift_pixels: torch.Tensor) -> torch.Tensor:
    """Return matrices (N, 1, P, P) as `psf_matrix`, of maps that are moved by shift_pixels (N,) at the same time.

    Nothing comes in from beyond the map. A PSF narrower than a third of a pixel is taken to be as wide as that, so
    that a map can be moved by a part of a pixel.
    """
    pixel = torch.arange(like.shape[-1], dtype=like.dtype, device=like.device)
    sigma = (fwhm_pixels.to(like.dtype) * SIGMA_PER_FWHM).clamp(min=_INTERPOLATION)[:, None, None]
    distance = pixel[:, None] - shift_pixels.to(like.dtype)[:, None, None] - pixel
    weight = _gaussian(distance.div_(sigma))
    return (weight / weight.sum(-1, keepdim=True).clamp(min=1e-12))[:, None]


def _gaussian(distance: torch.Tensor) -> torch.Tensor:
    """Return exp(-d^2 / 2), nil where that is no normal number any more: a processor takes ten times as long there."""
    least = 2 * torch.finfo(distance.dtype).tiny
    weight = (distance**2).mul_(-0.5).clamp_(min=math.log(least)).exp_()
    return torch.nn.functional.threshold(weight, 2 * least, 0.0, inplace=True)


def alike_over_psf(normal: torch.Tensor, fwhm_pixels: float | torch.Tensor) -> torch.Tensor:
    """Return standard normal numbers (N, C, P, P) that are alike over a PSF, as of `psf_matrix`, and still standard."""
    matrix = psf_matrix(normal, fwhm_pixels)
    if matrix is None:
        return normal
    width = (matrix**2).sum(-1).sqrt()
    return matrix @ normal @ matrix.mT / (width[..., :, None] * width[..., None, :])


def coarsened(images: torch.Tensor, pixels: int, rebin: int) -> torch.Tensor:
    """Cut the middle out of images (N, C, P, P) and sum it over rebin x rebin pixels: (N, C, Q, Q), Q = pixels."""
    edge = (images.shape[-1] - pixels * rebin) // 2
    middle = images[..., edge : edge + pixels * rebin, edge : edge + pixels * rebin]
    return middle if rebin == 1 else block_sums(middle, rebin)
