"""What may change between two runs that map a suite into one store: settings that only bring more galaxies."""

from typing import Any

from kinmass.gen.suite import Suite

#: They say where galaxies are looked for. What is found is compared galaxy by galaxy.
WHERE = ("suite.snapshots", "suite.catalogue.path")


def refused(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings, as `suite.aperture.kpc: 30 -> 60`, that would make other maps or truths of galaxies that are done.

    old and new are the config of a store: `gen.campaign.record.Settings`, with the suite file as `suite`.
    """
    was, now = flat(_as_of_today(old)), flat(new)
    keys = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    return [
        f"{key}: {_said(was.get(key))} -> {_said(now.get(key))}"
        for key in keys
        if not only_adds(key, was.get(key), now.get(key))
    ]


def flat(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"suite.aperture.kpc": 30.0, ...} of nested sections; without what is left out (None)."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}.")
        elif value is not None:
            found[above + key] = value
    return found


def only_adds(key: str, old: Any, new: Any) -> bool:
    """Whether a change of this setting lets all galaxies through as they are that came through before."""
    if key in WHERE:
        return True
    section, _, name = key.rpartition(".")
    if section != "suite.selection":
        return False
    if name == "which":
        return bool(new == "all")
    if new is None:
        return True  # no limit
    if old is None:
        return False
    if isinstance(new, list):
        (low, high), (old_low, old_high) = new, old
        return (low is None or (old_low is not None and low <= old_low)) and (
            high is None or (old_high is not None and high >= old_high)
        )
    if name.startswith("min_"):
        return bool(new <= old)
    return bool(name.startswith("max_") and new >= old)


def _as_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """A store's config with the defaults of keys that suite files did not have when it was made."""
    try:
        suite = Suite(**config["suite"])
    except (KeyError, TypeError, ValueError):  # keys of another version: compared as they are
        return config
    return {**config, "suite": suite.model_dump(mode="json", exclude={"root"})}


def _said(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
