"""Export of views of a store as FITS files, for DS9, CASA or any other tool that reads them."""

import glob
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import zarr
from astropy.io import fits

from kinmass.gen.code import commit, version_of
from kinmass.gen.options import OptionError
from kinmass.gen.physics.sightline import within
from kinmass.gen.storage import store
from kinmass.gen.storage.files import aside, make_folder
from kinmass.gen.words import counted, few

#: The unit of each channel in FITS spelling, and what the channel is, in the words of a header.
_CHANNELS = {
    "density": ("solMass kpc-2", "surface density"),
    "velocity": ("km s-1", "mean line-of-sight velocity, receding positive"),
    "dispersion": ("km s-1", "line-of-sight velocity dispersion"),
    "count": ("", "particles in the pixel"),
    "valid": ("", "1 where the instrument sees something"),
    "velocity_error": ("km s-1", "standard error of the velocity"),
    "dispersion_error": ("km s-1", "standard error of the dispersion"),
}


def export(
    path: Path,
    suite: str,
    galaxy: str,
    out: Path,
    view: int | None = None,
    instrument: str | None = None,
    distance_mpc: float | None = None,
    centre_deg: tuple[float, float] = (0.0, 0.0),
) -> list[Path]:
    """Write one FITS file per view of a galaxy into the folder `out` and return the files' paths.

    view: its number, or None for all. instrument: a built-in name or a YAML file, None for the
    stored moments. Axes are kpc from the galaxy's centre or, with distance_mpc (the angular diameter distance),
    degrees on the sky about centre_deg (RA, Dec). A file of the same view as the same options made it before is
    written anew; with all views, those that the same options made of views that are no more, as the store was made anew
    with fewer of them, are removed. Raises StoreError for a galaxy that is not in the store or has no maps, OptionError
    for an impossible view, distance or place, and where a file is there that was made of something else.
    """
    group = store.open_suite(path, suite)
    index = _index_of(group, path, suite, galaxy)
    n_views = group["maps"].shape[1]
    if view is not None and not 0 <= view < n_views:
        raise OptionError(
            f"{path}/{suite} has {counted(n_views, 'view')}, numbered from 0; --view {view} is none of them"
        )
    _check_place(distance_mpc, centre_deg)
    numbers = list(range(n_views)) if view is None else [view]
    paths = [out / file_name(suite, galaxy, number) for number in numbers]
    origin = _origin(path, instrument, distance_mpc, centre_deg)
    for place in paths:
        _refuse_another(place, origin)
    make_folder(out)
    by_light = group.attrs["config"]["suite"]["tracers"]["stars"] == "light"
    code_commit = commit()
    for number, place in zip(numbers, paths, strict=True):
        header = _galaxy_header(group, suite, galaxy, index, number, code_commit)
        header.extend(origin)
        images, pixel_kpc = _images(group, suite, galaxy, index, number, instrument, header)
        axes = _axes(images["STARS_DENSITY"].shape[-1], pixel_kpc, distance_mpc, centre_deg)
        axes.extend(_beam(header.get("PSFKPC", 0.0), distance_mpc))
        header["PIXKPC"] = (pixel_kpc, "[kpc] side of a pixel")
        hdus = [_image(name, image, by_light, header["OBJECT"], axes) for name, image in images.items()]
        with aside(place) as partial:
            whole = fits.HDUList([fits.PrimaryHDU(header=header), *hdus, _profile(group, index)])
            whole.writeto(partial, output_verify="exception")
    if view is None:
        _remove_further_views(out, f"{file_stem(suite, galaxy)}.view", n_views, origin)
    return paths


def _index_of(group: zarr.Group, path: Path, suite: str, galaxy: str) -> int:
    """Return the place of a galaxy in its suite. Raises StoreError where it is not there, or has no maps."""
    names = store.read_labels(group, "galaxy").tolist()
    if galaxy not in names:
        raise store.StoreError(f"{path}/{suite} has no galaxy {galaxy!r}; it has {few(names, 5)}")
    index = int(names.index(galaxy))
    if store.read(group, "status", index) != store.DONE:
        raise store.StoreError(f"{path}/{suite}: {galaxy} has no maps (see failures.jsonl); run `kinmass maps`")
    return index


def _image(name: str, image: np.ndarray, by_light: bool, galaxy: str, axes: fits.Header) -> fits.ImageHDU:
    """Make the extension of one image (P, P), with its unit. by_light: the density of stars is their light."""
    unit, meaning = _CHANNELS[name.lower().split("_", 1)[1]]
    if name == "STARS_DENSITY" and by_light:
        unit, meaning = "", "surface brightness, units of light_field per kpc2"
    hdu = fits.ImageHDU(image, name=name)
    hdu.header["BUNIT"], hdu.header["OBJECT"] = (unit, meaning), galaxy
    hdu.header.extend(axes)
    return hdu


def _remove_further_views(out: Path, name_before_number: str, n_views: int, origin: fits.Header) -> None:
    """Remove exports of the same origin whose views are not among the first n_views: they would pass for views of it.

    name_before_number: how the files' names begin.
    """
    for path in out.glob(f"{glob.escape(name_before_number)}*.fits"):
        number = path.name.removeprefix(name_before_number).removesuffix(".fits")
        if number.isdecimal() and int(number) >= n_views and _header_of(path).get("MADEOF") == origin["MADEOF"]:
            path.unlink()


def _check_place(distance_mpc: float | None, centre_deg: tuple[float, float]) -> None:
    """Raise OptionError for a distance or a place on the sky that cannot be."""
    if distance_mpc is not None and not 0 < distance_mpc < np.inf:
        raise OptionError(f"--distance-mpc must be a positive number, not {distance_mpc:g}")
    if not (0 <= centre_deg[0] <= 360 and -90 <= centre_deg[1] <= 90):
        raise OptionError(
            f"--ra must be from 0 to 360 and --dec from -90 to 90 degrees, not {centre_deg[0]:g} and {centre_deg[1]:g}"
        )


def _origin(
    path: Path, instrument: str | None, distance_mpc: float | None, centre_deg: tuple[float, float]
) -> fits.Header:
    """Return the cards that tell an export from one of another store, or with other options, under the same name."""
    seen_through = None
    if instrument is not None:
        from kinmass.gen.instruments.builtin import instrument as find

        seen_through = find(instrument).name  # one that is changed and has its name is to take its place
    store_path = _printable(str(path.resolve()))
    options = json.dumps([store_path, seen_through, distance_mpc, None if distance_mpc is None else list(centre_deg)])
    header = fits.Header()
    header["STORE"] = store_path
    header["MADEOF"] = (
        blake2b(options.encode(), digest_size=8).hexdigest(),
        "digest of store, instrument, place on sky",
    )
    return header


def _printable(text: str) -> str:
    """Return a text as FITS headers can hold it: what is not ASCII, or a control character, as Python writes it."""
    return text.encode("unicode_escape").decode()


def _refuse_another(path: Path, origin: fits.Header) -> None:
    """Raise OptionError where a file is there, and is not an export of the same origin: it would be lost."""
    if not path.exists() or (there := _header_of(path)).get("MADEOF") == origin["MADEOF"]:
        return
    of = "something that is no export of this version"
    if "MADEOF" in there:
        is_same_store = there.get("STORE") == origin["STORE"]
        of = "another instrument or place on the sky" if is_same_store else f"the store {there.get('STORE')}"
    raise OptionError(f"{path} is there already, of {of}; give another folder as --out, or remove it")


def _header_of(path: Path) -> fits.Header:
    """Read the primary header of a file; one without cards where it is no FITS file that can be read."""
    try:
        return fits.getheader(path)
    except (OSError, ValueError, IndexError):
        return fits.Header()


def file_name(suite: str, galaxy: str, view: int) -> str:
    """The name of the FITS file of one view, different for every view of every galaxy."""
    return f"{file_stem(suite, galaxy)}.view{view}.fits"


def file_stem(suite: str, galaxy: str) -> str:
    """The beginning of the names of a galaxy's files, different for every galaxy, whatever letters its name has.

    All characters but letters, digits and `_.-~` are percent-encoded, as in web addresses; a suite's name has no dots.
    File systems allow 255 bytes (with the mark of unfinished files): in a longer name a hash replaces the end.
    """
    name = quote(galaxy, safe="")
    if len(name) > 150:
        name = f"{name[:117]}~{blake2b(galaxy.encode(), digest_size=16).hexdigest()}"
    return f"{suite}.{name}"


def _galaxy_header(group: zarr.Group, suite: str, galaxy: str, index: int, view: int, commit: str) -> fits.Header:
    """The primary header of one view: which galaxy and sightline it shows, and which software made it."""
    header = fits.Header()
    header["OBJECT"] = (_printable(galaxy), "galaxy's name in the map store")
    header["SUITE"] = (suite, "suite of simulations")
    header["VIEW"] = (view, "number of the line of sight")
    r_e_kpc = store.read(group, "half_mass_radius", index)[view]
    header["RE_KPC"] = (float(r_e_kpc), "[kpc] projected stellar half-mass radius")
    sightline = store.read(group, "sightline", index)[view]
    for i, axis in enumerate(("x", "y", "away from observer")):
        for j in range(3):
            header[f"SIGHT{i + 1}{j + 1}"] = (float(sightline[i, j]), f"map {axis}, simulation {'xyz'[j]}")
    header["CREATOR"] = (f"kinmass {version_of('kinmass')}", "software that wrote this file")
    header["COMMIT"] = (commit, "its version control commit")
    header["MAPCOMMT"] = (str(group.attrs["commit"]), "commit of the software that made the maps")
    return header


def _images(
    group: zarr.Group, suite: str, galaxy: str, index: int, view: int, instrument: str | None, header: fits.Header
) -> tuple[dict[str, np.ndarray], float]:
    """Images (P, P) by EXTNAME, NaN where a pixel is empty, and the side of a pixel [kpc].

    Adds the instrument to the header, its PSF where that is known, and which maps it has not measured in this view:
    these are NaN. Errors come last, and only of what they are known of.
    """
    told: np.ndarray | None = None
    maps, pixel_kpc = store.read(group, "maps", index)[view], float(store.read(group, "pixel_scale", index)[view])
    names: tuple[str, ...] = store.CHANNELS
    if instrument is not None:
        import torch

        from kinmass.gen.instruments.builtin import instrument as find
        from kinmass.gen.instruments.looks import fixed_looks, fixed_noise
        from kinmass.gen.instruments.observe import CHANNELS, as_measured, observe

        noise_model, field_of_view_re = find(instrument), float(group.attrs["config"]["field_of_view_re"])
        r_e = torch.tensor([header["RE_KPC"]])
        name, pixels = within(suite, galaxy), maps.shape[-1]
        noise = fixed_noise(name, view, noise_model.grid(pixels, field_of_view_re)[0])
        look = fixed_looks([(name, view)], pixels) if noise_model.varies() else None
        seen_as = torch.from_numpy(noise)[None], field_of_view_re, r_e, look
        seen = observe(torch.from_numpy(maps)[None], noise_model, *seen_as, told=True)
        told = seen[0, CHANNELS:].unflatten(0, (2, -1)).numpy()
        maps, pixel_kpc = as_measured(seen)[0].numpy(), pixel_kpc * noise_model.rebin
        names = (*store.CHANNELS[:3], "valid")
        header["INSTRUME"] = (noise_model.name, "noise model the maps are seen through")
        header["HISTORY"] = f"instrument {noise_model.model_dump_json(exclude_none=True)}"
    images: dict[str, np.ndarray] = {}
    for t, tracer in enumerate(store.TRACERS):
        tracer_maps = maps[4 * t : 4 * t + 4]
        is_empty = tracer_maps[0 if instrument is None else 3] == 0  # smoothed gas is counted in one pixel alone
        for channel, image in zip(names, tracer_maps, strict=True):
            key, is_count = f"{tracer}_{channel}".upper(), channel in ("count", "valid")
            images[key] = image.astype(np.int32) if is_count else np.where(is_empty, np.nan, image)
            if not is_empty.all() and np.isnan(images[key]).all():
                header["COMMENT"] = f"{key} was not measured in this view"
    if told is not None:
        _add_told(images, header, told)
    return images, pixel_kpc


def _add_told(images: dict[str, np.ndarray], header: fits.Header, told: np.ndarray) -> None:
    """Add what is known of errors to the images, and of the PSF to the header; told (2, 5, P, P) of `observe.TOLD`."""
    from kinmass.gen.instruments.observe import TOLD, UNKNOWN

    fwhm_re = UNKNOWN
    for tracer, channels in zip(store.TRACERS, told, strict=True):
        is_seen = images[f"{tracer}_valid".upper()] > 0
        if not is_seen.any():
            continue
        of = dict(zip(TOLD, channels, strict=True))
        fwhm_re = max(fwhm_re, float(of["psf_fwhm_re"][is_seen].max()))  # that of both
        if (density_dex := float(of["density_dex"][is_seen].max())) > 0:
            header["COMMENT"] = f"{tracer.upper()}_DENSITY is known to {density_dex:.2g} dex: a factor on all of it"
        for name in ("velocity", "dispersion"):
            key, error = f"{tracer}_{name}".upper(), of[f"{name}_error"]
            if (error[is_seen] == UNKNOWN).any():
                header["COMMENT"] = f"errors of {key} are not known in this view"
            elif not np.isnan(images[key]).all():
                images[f"{key}_ERROR"] = np.where(is_seen, error, np.nan)
    if fwhm_re > 0:
        header["PSFKPC"] = (fwhm_re * header["RE_KPC"], "[kpc] full width at half maximum of the PSF")
    elif fwhm_re == UNKNOWN:
        header["COMMENT"] = "the PSF is not known in this view"


def _beam(psf_fwhm_kpc: float, distance_mpc: float | None) -> fits.Header:
    """The cards of a round beam, which are in degrees: none on axes in kpc, or without a beam."""
    header = fits.Header()
    if psf_fwhm_kpc > 0 and distance_mpc is not None:
        fwhm_deg = float(np.degrees(psf_fwhm_kpc / (1e3 * distance_mpc)))
        header["BMAJ"] = (fwhm_deg, "[deg] full width at half maximum of the PSF")
        header["BMIN"] = (fwhm_deg, "[deg] the same: it is round")
        header["BPA"] = (0.0, "[deg]")
    return header


def _axes(pixels: int, pixel_kpc: float, distance_mpc: float | None, centre_deg: tuple[float, float]) -> fits.Header:
    """A linear WCS in kpc from the galaxy's centre or, with distance_mpc, a tangential one in degrees.

    Maps are as the observer sees them: columns grow to the right, rows upwards. On the sky, up is north and right is
    west, so that RA grows to the left.
    """
    header = fits.Header()
    header["WCSAXES"] = 2
    if distance_mpc is None:
        pixel_size, reference, units, types = (pixel_kpc, pixel_kpc), (0.0, 0.0), "kpc", ("LINEAR", "LINEAR")
        axis_names = ("x offset from the galaxy's centre", "y offset from the galaxy's centre")
    else:
        degrees = float(np.degrees(pixel_kpc / (1e3 * distance_mpc)))
        pixel_size, reference, units, types = (-degrees, degrees), centre_deg, "deg", ("RA---TAN", "DEC--TAN")
        axis_names = ("Right ascension", "Declination")
        header["RADESYS"] = "ICRS"
        header["DISTMPC"] = (distance_mpc, "[Mpc] angular diameter distance assumed")
    for i in (0, 1):
        header[f"CTYPE{i + 1}"] = types[i]
        header[f"CNAME{i + 1}"] = axis_names[i]
        header[f"CUNIT{i + 1}"] = units
        header[f"CRPIX{i + 1}"] = ((pixels + 1) / 2, "the galaxy's centre")
        header[f"CRVAL{i + 1}"] = reference[i]
        header[f"CDELT{i + 1}"] = pixel_size[i]
    return header


def _profile(group: zarr.Group, index: int) -> fits.BinTableHDU:
    """The true mass profile as a table: the spherical radius, and each component's mass inside it."""
    columns: list[Any] = [fits.Column("RADIUS", "D", unit="kpc", array=store.read(group, "radius", index))]
    for name, mass in zip(store.read_labels(group, "component"), store.read(group, "mass", index), strict=True):
        columns.append(fits.Column(f"M_{name.upper()}", "D", unit="solMass", array=mass))
    return fits.BinTableHDU.from_columns(columns, name="MASS_PROFILE")
