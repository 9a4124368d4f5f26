"""The same maps by yt and by pynbody, through the interfaces their users call."""

from typing import Any

import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.physics.particles import Particles


class Yt:
    """Particles of one component in yt's memory, and their off-axis projections."""

    def __init__(self, particles: Particles, half_box_kpc: float):
        import yt

        yt.set_log_level("error")
        p = particles
        data: dict[Any, Any] = {f"particle_position_{axis}": p.pos_kpc[:, i] for i, axis in enumerate("xyz")}
        data |= {f"particle_velocity_{axis}": p.vel_kms[:, i] for i, axis in enumerate("xyz")}
        data["particle_mass"] = p.mass_msun
        if p.support_kpc is not None:
            data["smoothing_length"] = p.support_kpc  # yt's cubic spline ends there
            data["density"] = 3 * 32 * p.mass_msun / (4 * np.pi * p.support_kpc**3)
        self.ds = yt.load_particles(
            data, length_unit=KPC_CM, mass_unit=MSUN_G, velocity_unit=KMS_CM_S, time_unit=KPC_CM / KMS_CM_S,
            bbox=half_box_kpc * np.array([[-1, 1]] * 3), periodicity=(False,) * 3,
        )  # fmt: skip
        self.ds.add_field(
            ("gas" if p.support_kpc is not None else "io", "velocity_los_squared"),
            function=lambda field, data: data[field.name[0], self.los(field.name[0])] ** 2,
            sampling_type="particle", units="cm**2/s**2",
        )  # fmt: skip
        self.source = self.ds.all_data()

    @staticmethod
    def los(kind: str) -> str:
        """yt's name of the line-of-sight velocity of `gas` or of particles, `io`."""
        return "velocity_los" if kind == "gas" else "particle_velocity_los"

    def gas(self, field: str, rotation: np.ndarray, half_kpc: float, pixels: int) -> np.ndarray:
        """Map (P, P) of an SPH field, weighted by mass unless it is the density; y grows with the row."""
        import yt

        centre = self.ds.arr([0.0, 0.0, 0.0], "kpc")
        width = self.ds.arr([2 * half_kpc] * 3, "kpc")
        image = yt.off_axis_projection(
            self.source, centre, -rotation[2], width, [pixels] * 2, ("gas", field),
            weight=None if field == "density" else ("gas", "density"), north_vector=rotation[1],
            depth=self.ds.domain_width.max(), num_threads=1,
        )  # fmt: skip
        return self._plain(image, field).T

    def stars(self, field: str, rotation: np.ndarray, half_kpc: float, pixels: int) -> np.ndarray:
        """Map (P, P) of a particle field, as OffAxisParticleProjectionPlot makes it, without the figure."""
        from yt.visualization.fixed_resolution import ParticleImageBuffer
        from yt.visualization.particle_plots import ParticleOffAxisDummyDataSource

        name = ("io", {"density": "particle_mass", "velocity_los": self.los("io")}.get(field, field))
        for cached in [key for key in self.source.field_data if "_los" in key[1]]:
            del self.source.field_data[cached]  # it is of another sightline
        self.source.set_field_parameter("axis", -rotation[2])
        source = ParticleOffAxisDummyDataSource(
            self.ds.arr([0.0, 0.0, 0.0], "kpc"), self.ds, -rotation[2], (2 * half_kpc,) * 3, [name],
            weight_field=None if field == "density" else ("io", "particle_mass"),
            data_source=self.source, density=field == "density", north_vector=rotation[1],
        )  # fmt: skip
        edge = self.ds.quan(half_kpc, "kpc")
        image = ParticleImageBuffer(source, (-edge, edge, -edge, edge), (pixels, pixels), periodic=False)[name]
        return np.nan_to_num(self._plain(image, field))

    @staticmethod
    def _plain(image: object, field: str) -> np.ndarray:
        """yt's image as an array in our units and with our sign of the velocity."""
        units = {"density": "Msun/kpc**2", "velocity_los": "km/s", "velocity_los_squared": "km**2/s**2"}
        # yt's line of sight comes towards the observer; ours recedes.
        return (-1 if field == "velocity_los" else 1) * np.asarray(image.to_value(units[field]))  # type: ignore[attr-defined]


class YtCells(Yt):
    """The leaves of an octree in yt's memory; their fields are drawn by `gas`.

    yt multiplies an octree's columns twice by the width of the image and divides them by sqrt(3), and loses the unit of
    length of what it weighs (4.4.3); both are put right here.
    """

    def gas(self, field: str, rotation: np.ndarray, half_kpc: float, pixels: int) -> np.ndarray:
        """As for particles."""
        image = super().gas(field, rotation, half_kpc, pixels)
        return image / (2 * half_kpc / np.sqrt(3)) if field == "density" else image * KPC_CM

    def __init__(self, cells: Particles, mask: np.ndarray, half_box_kpc: float):
        import yt

        yt.set_log_level("error")
        data: dict[Any, Any] = {
            ("gas", f"velocity_{axis}"): (cells.vel_kms[:, i, None], "km/s") for i, axis in enumerate("xyz")
        }
        data["gas", "density"] = (cells.mass_msun / cells.side_kpc**3)[:, None], "Msun/kpc**3"  # type: ignore[operator]
        self.ds = yt.load_octree(
            mask, data, bbox=half_box_kpc * np.array([[-1, 1]] * 3), length_unit="kpc", mass_unit="Msun",
            num_zones=1, partial_coverage=0, periodicity=(False,) * 3,
        )  # fmt: skip
        self.ds.add_field(
            ("gas", "velocity_los_squared"), function=lambda field, data: data["gas", "velocity_los"] ** 2,
            sampling_type="cell", units="cm**2/s**2",
        )  # fmt: skip
        self.source = self.ds.all_data()


class Pynbody:
    """Gas as a pynbody snapshot, rotated to one sightline, and its images by pynbody.sph."""

    def __init__(self, gas: Particles, rotation: np.ndarray, half_kpc: float):
        import pynbody

        pynbody.config["number_of_threads"] = 1
        self.render, self.half_kpc = pynbody.sph.render_image, half_kpc
        self.sim = pynbody.new(gas=len(gas))
        pos, vel = gas.pos_kpc @ rotation.T, gas.vel_kms @ rotation.T
        support = np.zeros(len(gas)) if gas.support_kpc is None else gas.support_kpc
        units = {"pos": "kpc", "vel": "km s^-1", "mass": "Msol", "rho": "Msol kpc^-3", "smooth": "kpc"}
        values = {"pos": pos, "vel": vel, "mass": gas.mass_msun, "smooth": support / 2}  # its spline ends at 2 h
        values["rho"] = 3 * 32 * gas.mass_msun / (4 * np.pi * support**3)
        for name, value in values.items():
            self.sim[name] = pynbody.array.SimArray(value, units[name])

    def image(self, field: str, pixels: int, fast: bool) -> np.ndarray:
        """Map (P, P) of surface density [Msun/kpc^2] or mass-weighted velocity [km/s]; fast: its approximate mode."""
        options = {"quantity": "rho", "out_units": "Msol kpc^-2"} if field == "density" else {"quantity": "vz"}
        weight = None if field == "density" else "rho"
        return np.asarray(
            self.render(
                self.sim.gas, width=2 * self.half_kpc, resolution=pixels, weight=weight,
                threaded=False, approximate_fast=fast, denoise=False, **options,
            )
        )  # fmt: skip
