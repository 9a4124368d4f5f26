"""Views of a network for any tracer, which sees gas, stars and both by turns."""

import torch

from kinmass.gen.instruments.looks import Look, leaves_out
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import observe
from kinmass.train.model.scaling import drop_tracers

# N views, P stored pixels along a side, Q observed ones


def observe_by_turns(
    choice: torch.Tensor,
    maps: torch.Tensor,
    instrument: Instrument,
    noise: torch.Tensor,
    field_of_view_re: float,
    half_mass_radius_kpc: torch.Tensor,
    look: Look | None,
    told: bool,
) -> torch.Tensor:
    """Return observed maps (N, C, Q, Q), as of `observe`, after `drop_tracers` by choice (N,).

    Where that costs nothing, on a CPU, what would be dropped is not observed to begin with.
    """
    seen_as = instrument, noise, field_of_view_re, half_mass_radius_kpc, look, told
    if not leaves_out(maps.device):
        return drop_tracers(observe(maps, *seen_as), choice)
    wanted = torch.stack([choice != 0, choice != 1], dim=1)
    observed = observe(maps, *seen_as, wanted=wanted)
    shows_nothing = (observed[:, 3:8:4].amax((2, 3)) == 0).all(1, keepdim=True)
    dropped = ~wanted & shows_nothing
    return observed + observe(maps, *seen_as, wanted=dropped) if dropped.any() else observed
