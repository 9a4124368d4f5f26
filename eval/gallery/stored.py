"""One galaxy of a map store as it is shown: its maps, its truth, and the posterior of every network that is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from pathlib import Path

import numpy as np
import torch
import zarr

from kinmass.eval.observed.places import labels
from kinmass.gen.campaign import failures
from kinmass.gen.campaign.failures import UNLISTED
from kinmass.gen.instruments.looks import fixed_looks
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import as_measured, psf_fwhm_pixels
from kinmass.gen.storage import store
from kinmass.train.data.dataset import REASONS, Views, part_of, views_of, why_not
from kinmass.train.run.intervals import SHARES
from kinmass.train.run.posterior import Inference, load
from kinmass.train.run.trained_on import check_maps, seen_in_training, unlike_trained_on


class NotShown(ValueError):
    """A galaxy, a view or a suite that cannot be shown; the message says why."""


@dataclass(frozen=True)
class Network:
    """A run, for one of the tracers that it answers for; `label` tells it from the others."""

    label: str
    tracer: str
    inference: Inference


def networks_of(runs: Sequence[Path]) -> list[Network]:
    """Load runs, and return one network for each tracer that each answers for. Raises RunError."""
    networks = []
    for run, label in zip(runs, labels(runs), strict=True):
        inference = load(run)
        tracers = inference.answers()
        networks += [Network(label if len(tracers) == 1 else f"{label}, {t}", t, inference) for t in tracers]
    return networks


@dataclass(frozen=True)
class Answer:
    """What one network says of a view: quantiles (5, K) of log10 M(<r) [Msun] at SHARES, or why it says nothing."""

    network: Network
    why_not: str = ""
    quantiles: np.ndarray | None = None
    ood_score: float = np.nan
    training: str = ""  # what of the galaxy the network knows from its training, in words; "" for nothing

    def rms_dex(self, log10_menc: np.ndarray) -> float:
        """Root mean square over radii of the median's offset from the truth (K,) [dex]; NaN without an answer."""
        return np.nan if self.quantiles is None else float(np.sqrt(np.mean((self.quantiles[4] - log10_menc) ** 2)))


@dataclass(frozen=True)
class StoredGalaxy:
    """A finished galaxy: its views (V of them), radii (K,) [kpc] and masses (4, K) [Msun] of its true profile."""

    group: zarr.Group
    suite: str
    number: int
    name: str
    views: Views
    radius_kpc: np.ndarray
    mass_msun: np.ndarray
    inclination_deg: np.ndarray
    has_gas: bool
    has_dark: bool

    @property
    def _store(self) -> Path:
        return Path(self.group.store_path.store.root).parent

    @cached_property
    def part(self) -> str:
        """The part of the split: galaxies of `train` were trained on, if their suite was."""
        return part_of(str(self.views.lineage[0]))

    def view(self, number: int) -> Views:
        """One view. Raises NotShown for a number that there is not."""
        if not 0 <= number < len(self.views):
            raise NotShown(f"{self.suite}/{self.name} has views 0 to {len(self.views) - 1}, not {number}")
        return self.views[np.array([number])]

    def maps(self, number: int, instrument: Instrument | None = None) -> np.ndarray:
        """Maps (8, Q, Q) of a view, as stored or as an instrument sees them with the view's own noise.

        What the instrument has not measured in this view is NaN.
        """
        view = self.view(number)
        return np.asarray(view.maps[0] if instrument is None else as_measured(view.observed(instrument, told=True))[0])

    def frame_kpc(self, number: int, instrument: Instrument | None = None) -> tuple[float, float, float]:
        """Half the side of the maps, R_e, and the FWHM of the PSF (0 without one), all in kpc."""
        view = self.view(number)
        r_e, pixels = float(view.half_mass_radius_kpc[0]), view.maps.shape[-1]
        if instrument is None:
            return 0.5 * view.field_of_view_re * r_e, r_e, 0.0
        look = fixed_looks(view.names(), pixels) if instrument.varies() else None
        fwhm = psf_fwhm_pixels(instrument, pixels, view.field_of_view_re, view.half_mass_radius_kpc, look)
        fwhm_kpc = float(torch.as_tensor(fwhm).reshape(-1)[0]) * view.field_of_view_re * r_e / pixels
        return 0.5 * instrument.grid(pixels, view.field_of_view_re)[1] * r_e, r_e, fwhm_kpc

    def ask(self, network: Network, number: int) -> Answer:
        """Ask a network for one view, which it sees through the instrument that it was trained with."""
        view, inference, tracer = self.view(number), network.inference, network.tracer
        try:
            check_maps(inference.path, self._store, self.suite)
            reason = int(why_not(view, tracer, inference.instrument)[0])
        except ValueError as error:
            return Answer(network, str(error))
        if reason:
            return Answer(network, REASONS[reason])
        posterior = inference(view, tracer=tracer)
        if not posterior.is_answered.all():  # the view's look shows nothing, as where a wide PSF leaves all too faint
            return Answer(network, REASONS[3])
        training = self._training(inference)
        return Answer(network, "", posterior.quantiles(SHARES)[:, 0], float(posterior.ood_score()[0]), training)

    def _training(self, inference: Inference) -> str:
        """Return in words what a network knows of this galaxy from its training, "" for a test galaxy of a known suite.

        Which galaxies a run was trained on, `--galaxies` and `--views` say, too; and a suite may have the name alone of
        one that it was trained on.
        """
        if self.suite not in inference.run["fit"]["suites"]:
            return "not trained on this suite"
        stamp = tuple(_stamp(self._store / self.suite / name) for name in _LABELLING)
        if _is_another_suite(inference.path, self._store, self.suite, stamp):
            return "trained on another suite of this name"
        if seen_in_training(inference.path, self.views).any():
            return "trained on this galaxy"
        return "calibrated on this galaxy" if self.part == "val" else ""


def read_stored(path: Path, suite: str, number: int) -> StoredGalaxy:
    """Read the galaxy with a number in a suite.

    Raises StoreError where its suite or its arrays cannot be read, NotShown where it is not mapped, with the reason.
    """
    folder = path / suite
    group, names, lineages = _opened(path, suite, tuple(_stamp(folder / name) for name in _LABELLING))
    if not 0 <= number < len(names):
        raise NotShown(f"{path}/{suite} has no galaxy number {number}; its numbers are 0 to {len(names) - 1}")
    name = str(names[number])
    status = int(store.read(group, "status", number))
    if status == store.FAILED:
        reason = reasons(path).get((suite, name), "the reason is not noted in failures.jsonl")
        raise NotShown(f"{suite}/{name} could not be mapped: {reason}")
    if status != store.DONE:
        raise NotShown(f"{suite}/{name} is not mapped yet; `kinmass maps` goes on with it")
    numbers = np.array([number])
    views = views_of(group, suite, numbers, names[numbers], lineages[numbers])
    radius, mass, inclination = (store.read(group, key, number) for key in ("radius", "mass", "inclination"))
    flags = (bool(store.read(group, key, number)) for key in ("has_gas", "has_dark"))
    return StoredGalaxy(group, suite, number, name, views, radius, mass, inclination, *flags)


#: Files of a suite that change with its settings and its galaxies' names.
_LABELLING = ("zarr.json", "galaxy/zarr.json", "galaxy/c/0")


def _stamp(file: Path) -> tuple[int, ...]:
    """Tell a file from the one that was there before under its name; empty where there is none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


@lru_cache(maxsize=8)
def _opened(path: Path, suite: str, stamp: tuple[tuple[int, ...], ...]) -> tuple[zarr.Group, np.ndarray, np.ndarray]:
    """A suite's group, names and lineages, opened once for as long as its files have this stamp. Raises StoreError.

    A page of pictures would otherwise read the names of all galaxies once for each picture.
    """
    group = store.open_suite(path, suite)
    return group, store.read_labels(group, "galaxy"), store.read_labels(group, "lineage")


@lru_cache(maxsize=32)
def _is_another_suite(run: Path, path: Path, suite: str, stamp: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a suite has the name of one that a run was trained on, and is another; looked at once for each stamp."""
    return bool(unlike_trained_on([run], path, [suite]))


#: What mends a galaxy that cannot be read.
REPAIR = "give the command that made the store again, with --repair"


def reasons(path: Path) -> dict[tuple[str, str], str]:
    """Return why galaxies could not be mapped, by suite and name, as failures.jsonl says."""
    entries = failures.noted(path)
    return {(str(e["suite"]), str(e["galaxy"])): str(e.get("reason", "no reason is noted")) for e in entries}


def find(path: Path, galaxy: str) -> tuple[str, int]:
    """Find a galaxy by its name, or SUITE/NAME; return its suite and its number there. Raises NotShown, StoreError."""
    suites = store.suites(path)
    before, _, after = galaxy.partition("/")
    places = [(before, after)] if before in suites and after else [(suite, galaxy) for suite in suites]
    found, alike, others = [], [], []
    for suite, name in places:
        names = store.read_labels(store.open_suite(path, suite), "galaxy").tolist()
        found += [(suite, names.index(name))] if name in names else []
        alike += [f"{suite}/{n}" for n in names if name in n]
        others += [f"{suite}/{n}" for n in names[:3]]
    if not found:
        named = alike or others
        few = ", ".join(named[:3]) + (", ..." if len(named) > 3 or not alike else "")
        raise NotShown(f"{path} has no galaxy {galaxy!r}; it has {few if named else 'none'}")
    if len(found) > 1:
        raise NotShown(f"{galaxy!r} is in {' and '.join(s for s, _ in found)}: say which, as {found[0][0]}/{galaxy}")
    return found[0]


def contents(path: Path) -> list[str]:
    """Say in a line for each suite what a store holds. Raises StoreError."""
    lines, failures_known = [], reasons(path) if (path / "failures.jsonl").exists() else None
    for suite in store.suites(path):
        group = store.open_suite(path, suite)
        status, config = store.read_status(group, unreadable_is_damaged=True), group.attrs["config"]
        galaxy_names = store.read_labels(group, "galaxy").tolist()
        if failures_known is not None:  # what stood for a snapshot that could be listed since is no galaxy
            is_left = [not label.endswith(f":{UNLISTED}") or (suite, label) in failures_known for label in galaxy_names]
            status, galaxy_names = status[is_left], list(compress(galaxy_names, is_left))
        done, failed = (int((status == s).sum()) for s in (store.DONE, store.FAILED))
        names = ", ".join(f"{suite}/{label}" for label in galaxy_names[:2]) + (", ..." if len(galaxy_names) > 2 else "")
        pending = len(status) - done - failed
        galaxies, views = "galaxy" if len(status) == 1 else "galaxies", "view" if config["views"] == 1 else "views"
        lines.append(
            f"{suite}: {len(status)} {galaxies} ({done} mapped, {failed} failed, {pending} not yet), "
            f"{config['views']} {views} of {config['pixels']} x {config['pixels']} pixels: {names}"
        )
    closed = store.closed_folders(path)
    return lines + [f"{name}: may not be looked into by you; its owner can change that" for name in closed]
