"""What light does on its way: the PSF, pixels, and their joining into bins."""

import torch

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
    weight = torch.exp(-0.5 * (distance * scale) ** 2)
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
    weight = torch.exp(-0.5 * (distance / sigma) ** 2)
    return (weight / weight.sum(-1, keepdim=True).clamp(min=1e-12))[:, None]


def coarsened(images: torch.Tensor, pixels: int, rebin: int) -> torch.Tensor:
    """Cut the middle out of images (N, C, P, P) and sum it over rebin x rebin pixels: (N, C, Q, Q), Q = pixels."""
    edge = (images.shape[-1] - pixels * rebin) // 2
    middle = images[..., edge : edge + pixels * rebin, edge : edge + pixels * rebin]
    return middle if rebin == 1 else block_sums(middle, rebin)


def block_sums(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return the sums (..., Q / side, Q / side) of images (..., Q, Q) over blocks of pixels."""
    n = images.shape[-1] // side
    return images.unflatten(-1, (n, side)).unflatten(-3, (n, side)).sum((-1, -3))


def bin_sides(variance: torch.Tensor, density: torch.Tensor, target: float | torch.Tensor) -> torch.Tensor:
    """Return the side (N, Q, Q), 1, 2 or 4 pixels, of the square bin that each pixel is joined into.

    variance and density (N, Q, Q): of V [km^2/s^2] and of light, zero in pixels that are not seen. A bin is taken
    where any of its pixels, or of the bins in it, is less certain than the target [km/s]. As Voronoi bins do
    (Cappellari & Copin 2003) these join faint pixels and leave bright ones alone, but they are squares on a grid.
    """
    sides = torch.ones_like(density)
    target2 = torch.as_tensor(target, dtype=density.dtype, device=density.device) ** 2
    is_poor = (density > 0) & (variance > target2)
    for side in (2, 4):
        joined = spread_over_blocks(block_sums(_padded(is_poor.to(density)), side), side, density.shape[-1]) > 0
        sides = torch.where(joined, float(side), sides)
        is_poor = joined & (bin_variance(variance, density, side) > target2)
    return sides


def bin_variance(variance: torch.Tensor, density: torch.Tensor, side: int) -> torch.Tensor:
    """Return the variance (N, Q, Q) of the density-weighted mean in bins of a side, at each of their pixels."""
    sums = [block_sums(_padded(x), side) for x in (variance * density**2, density)]
    return spread_over_blocks(sums[0] / sums[1].clamp(min=1e-30) ** 2, side, density.shape[-1])


def binned(images: torch.Tensor, valid: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, Q, Q) with the mean over the valid pixels of its bin, of `bin_sides`, in every pixel."""
    result, seen = images, valid[:, None].to(images)
    for side in (2, 4):
        sums, counts = (block_sums(_padded(x), side) for x in (images * seen, seen))
        means = spread_over_blocks(sums / counts.clamp(min=1), side, images.shape[-1])
        result = torch.where((sides == side)[:, None], means, result)
    return result


def _padded(images: torch.Tensor) -> torch.Tensor:
    """Return images (..., Q, Q) with zeros at two edges, to a multiple of 4 pixels."""
    more = -images.shape[-1] % 4
    return torch.nn.functional.pad(images, (0, more, 0, more)) if more else images


def spread_over_blocks(values: torch.Tensor, side: int, pixels: int) -> torch.Tensor:
    """Return (..., pixels, pixels) with the value of its block in every pixel."""
    return values.repeat_interleave(side, -1).repeat_interleave(side, -2)[..., :pixels, :pixels]
