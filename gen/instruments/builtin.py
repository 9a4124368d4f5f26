"""The instruments that come with the project: perfect views, a survey's fixed view, everything at once, real surveys.

Sizes of the real ones are in R_e, because that is what a network sees. They follow from what the papers give in arcsec
and the sizes of the galaxies that each survey observed; ranges hold about nine galaxies in ten. Errors of V are those
at the mean brightness inside R_e.
"""

from pathlib import Path

from kinmass.gen.instruments.model import Footprint, Instrument, PsfFwhm, TracerNoise
from kinmass.gen.options import OptionError
from kinmass.gen.yamlfile import read_checked

_IFU_STARS = TracerNoise(velocity_error_kms=10.0, error_slope=0.5, mask_below_mean=1 / 40)

# An integral-field survey, with resolved HI or CO of the same galaxies. Stars: errors of 10 km/s at the mean
# density inside R_e, which grow as the signal-to-noise ratio falls; pixels below 1/40 of that density are
# lost. Gas lines: errors of 5 km/s, down to 0.3 Msun/pc^2.
_IFU = Instrument(
    name="ifu",
    psf_fwhm=PsfFwhm(pixels=1.5),
    stars=_IFU_STARS,
    gas=TracerNoise(velocity_error_kms=5.0, mask_below_msun_kpc2=3e5),
)

# All of it: as broad as what is observed or simulated. What a network is trained through that is to be asked anything.
_SURVEY = Instrument(
    name="survey",
    psf_fwhm=PsfFwhm(re=(0.05, 1.2)),
    unknown_psf=0.15,
    centre_error_re=0.03,
    footprint=Footprint(shape="any", radius_re=(0.4, 3.0), offset_re=(0.0, 0.2), share=0.5),
    stars=TracerNoise(
        velocity_error_kms=(0.7, 30.0), error_slope=(0.0, 0.7), correlated=0.3, unknown_errors=0.15,
        mask_below_mean=(0.003, 0.3), kept_pixels=(0.03, 1.0), faded=0.25, lost_pixels=(0.0, 0.5), holed=0.25,
        bin_to_kms=(3.0, 60.0), binned=0.35, instrument_sigma_kms=(0.0, 100.0), no_dispersion=0.1, no_density=0.15,
        density_dex=0.3, uncertain_density=0.3, particles=(200, 20_000), thinned=0.5,
    ),
    gas=TracerNoise(
        velocity_error_kms=(0.5, 15.0), error_slope=(0.0, 0.5), correlated=0.3, unknown_errors=0.15,
        mask_below_mean=(0.001, 0.3), mask_below_msun_kpc2=(1e4, 3e6), kept_pixels=(0.03, 1.0), faded=0.35,
        lost_pixels=(0.0, 0.5), holed=0.25, bin_to_kms=(2.0, 30.0), binned=0.2,
        instrument_sigma_kms=(0.0, 30.0), no_dispersion=0.1, no_density=0.15,
        density_dex=0.3, uncertain_density=0.3, particles=(200, 20_000), thinned=0.5,
    ),
)  # fmt: skip

# Bundy et al. 2015 (ApJ 798, 7): hexagons to 1.5 R_e (primary sample) and 2.5 R_e (secondary). Law et al. 2016
# (AJ 152, 83): PSF of 2.5 arcsec, a third to two thirds of the radius of bundles that follow R_e; R of about 2000.
_MANGA = Instrument(
    name="manga",
    psf_fwhm=PsfFwhm(re=(0.24, 1.0)),
    footprint=Footprint(shape="hexagon", radius_re=(1.5, 2.5), offset_re=(0.0, 0.1)),
    stars=TracerNoise(
        velocity_error_kms=(2.0, 15.0), error_slope=0.5, correlated=1.0, mask_below_mean=(0.01, 0.1),
        bin_to_kms=(10.0, 25.0), instrument_sigma_kms=(60.0, 75.0),
    ),
    gas=TracerNoise(
        velocity_error_kms=(2.0, 10.0), error_slope=(0.0, 0.5), correlated=1.0, mask_below_mean=(0.003, 0.1),
        instrument_sigma_kms=(60.0, 75.0), density_dex=0.5,
    ),
)  # fmt: skip

# Sanchez et al. 2012 (A&A 538, A8), Garcia-Benito et al. 2015 (A&A 576, A135): a hexagon of 74 x 64 arcsec, PSF of
# 2.5 arcsec, on galaxies of R_e of 10 to 25 arcsec. Falcon-Barroso et al. 2017 (A&A 597, A48): V1200 has 72 km/s.
_CALIFA = Instrument(
    name="califa",
    psf_fwhm=PsfFwhm(re=(0.1, 0.25)),
    footprint=Footprint(shape="hexagon", radius_re=(1.3, 3.0), offset_re=(0.0, 0.1)),
    stars=TracerNoise(
        velocity_error_kms=(2.0, 12.0), error_slope=0.5, correlated=1.0, mask_below_mean=(0.01, 0.1),
        bin_to_kms=(8.0, 20.0), instrument_sigma_kms=(65.0, 75.0),
    ),
    gas=TracerNoise(
        velocity_error_kms=(3.0, 12.0), error_slope=(0.0, 0.5), correlated=1.0, mask_below_mean=(0.003, 0.1),
        instrument_sigma_kms=(100.0, 150.0), no_dispersion=1.0, density_dex=0.5,
    ),
)  # fmt: skip

# Croom et al. 2012 (MNRAS 421, 872), Croom et al. 2021 (MNRAS 505, 991): circles of 15 arcsec, PSF of 2.1 arcsec, R_e
# of 2 to 10 arcsec; 70 km/s in the blue, where stars are measured, 30 km/s in the red.
_SAMI = Instrument(
    name="sami",
    psf_fwhm=PsfFwhm(re=(0.2, 1.1)),
    footprint=Footprint(shape="circle", radius_re=(0.75, 3.0), offset_re=(0.0, 0.1)),
    stars=TracerNoise(
        velocity_error_kms=(3.0, 20.0), error_slope=0.5, correlated=1.0, mask_below_mean=(0.01, 0.2),
        instrument_sigma_kms=70.0,
    ),
    gas=TracerNoise(
        velocity_error_kms=(2.0, 15.0), error_slope=(0.0, 0.5), correlated=1.0, mask_below_mean=(0.003, 0.2),
        instrument_sigma_kms=30.0, density_dex=0.5,
    ),
)  # fmt: skip

# Bacon et al. 2010 (SPIE 7735, 8): one arcminute, seeing of 0.6 to 1 arcsec, R of 2000 to 4000. Sarzi et al. 2018
# (A&A 616, A121), Emsellem et al. 2022 (A&A 659, A191): nearby galaxies of R_e of 10 to 60 arcsec, also as mosaics.
_MUSE = Instrument(
    name="muse",
    psf_fwhm=PsfFwhm(re=(0.05, 0.15)),
    footprint=Footprint(shape="square", radius_re=(0.5, 3.0), offset_re=(0.0, 0.2)),
    stars=TracerNoise(
        velocity_error_kms=(2.0, 10.0), error_slope=0.5, mask_below_mean=(0.003, 0.1), bin_to_kms=(5.0, 12.0),
        instrument_sigma_kms=(45.0, 70.0),
    ),
    gas=TracerNoise(
        velocity_error_kms=(1.0, 8.0), error_slope=(0.0, 0.5), mask_below_mean=(0.001, 0.1),
        instrument_sigma_kms=(45.0, 60.0), density_dex=0.5,
    ),
)  # fmt: skip

# Emsellem et al. 2004 (MNRAS 352, 721), Cappellari et al. 2011 (MNRAS 413, 813): SAURON's 33 x 41 arcsec, PSF of 1.2 to
# 2 arcsec, R_e of 8 to 50 arcsec; 98 km/s; bins of a signal-to-noise ratio of 40. Gas in a quarter of the galaxies.
_SAURON = Instrument(
    name="sauron",
    psf_fwhm=PsfFwhm(re=(0.05, 0.2)),
    footprint=Footprint(shape="square", radius_re=(0.4, 2.2), offset_re=(0.0, 0.2)),
    stars=TracerNoise(
        velocity_error_kms=(2.0, 8.0), error_slope=0.5, mask_below_mean=(0.01, 0.2), bin_to_kms=(4.0, 8.0),
        instrument_sigma_kms=98.0,
    ),
    gas=TracerNoise(
        velocity_error_kms=(3.0, 15.0), error_slope=(0.0, 0.5), mask_below_mean=(0.01, 0.3),
        instrument_sigma_kms=98.0, density_dex=0.5,
    ),
)  # fmt: skip

# Bolatto et al. 2017 (ApJ 846, 159: EDGE-CALIFA, 4.5 arcsec, 3 Msun/pc^2), Leroy et al. 2021 (ApJS 257, 43:
# PHANGS-ALMA, 1 arcsec, channels of 2.5 km/s): CO is patchy, and fills the inner part.
_ALMA_CO = Instrument(
    name="alma-co",
    psf_fwhm=PsfFwhm(re=(0.05, 0.45)),
    footprint=Footprint(shape="circle", radius_re=(0.5, 3.0), offset_re=(0.0, 0.1)),
    stars=_IFU_STARS,
    gas=TracerNoise(
        velocity_error_kms=(1.0, 8.0), error_slope=(0.0, 0.5), correlated=1.0, mask_below_msun_kpc2=(1e6, 4e6),
        kept_pixels=(0.05, 1.0), lost_pixels=(0.0, 0.3), instrument_sigma_kms=(1.0, 5.0), density_dex=0.3,
    ),
)  # fmt: skip

# Walter et al. 2008 (AJ 136, 2563: THINGS, 6 to 12 arcsec, channels of 2.6 to 5.2 km/s), van der Hulst et al. 2001
# (ASPC 240, 451: WHISP, 12 to 60 arcsec): HI down to 0.3 to 1 Msun/pc^2, far beyond the molecules.
_HI = Instrument(
    name="hi",
    psf_fwhm=PsfFwhm(re=(0.1, 1.2)),
    stars=_IFU_STARS,
    gas=TracerNoise(
        velocity_error_kms=(1.0, 8.0), error_slope=(0.0, 0.5), correlated=1.0, mask_below_msun_kpc2=(3e5, 1e6),
        instrument_sigma_kms=(1.0, 5.0), density_dex=0.05,
    ),
)  # fmt: skip

INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument(name="clean"), _IFU, _SURVEY, _MANGA, _CALIFA, _SAMI, _MUSE, _SAURON, _ALMA_CO, _HI,
    )
}  # fmt: skip


def instrument(name: str) -> Instrument:
    """Return the built-in instrument of that name, or the one in a YAML file.

    Raises OptionError, which lists the built-in ones, for an unknown name, and FileError for a file that is wrong.
    """
    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    if not name.endswith((".yaml", ".yml")):
        raise OptionError(f"unknown instrument {name!r}; there are {', '.join(INSTRUMENTS)}, or give a YAML file")
    custom = read_checked(Path(name), Instrument)
    if INSTRUMENTS.get(custom.name, custom) != custom:
        raise OptionError(f"{name}: `name`: {custom.name} is a built-in instrument; choose another name")
    return custom
