"""Says which settings may change between two runs into one store: those that only bring more galaxies."""

from typing import Any

from kinmass.gen.suite import Suite

#: Settings that say where galaxies are looked for. They may change, because the store compares galaxy by galaxy.
PLACES = ("suite.snapshots", "suite.catalogue.path")


def refused(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the changes, as `suite.aperture.kpc: 30 -> 60`, that would give finished galaxies other maps or truths.

    old and new are the config of a store: `gen.campaign.record.Settings`, with the suite file as `suite`.
    """
    return [f"{key}: {_words(old_value)} -> {_words(new_value)}" for key, old_value, new_value in differing(old, new)]


def differing(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """List what `refused` lists as (key, old value, new value)."""
    old_values, new_values = flat(_as_of_today(old)), flat(_as_of_today(new))
    keys = [key for key in sorted(old_values.keys() | new_values.keys()) if old_values.get(key) != new_values.get(key)]
    return [
        (key, old_values.get(key), new_values.get(key))
        for key in keys
        if not only_adds(key, old_values.get(key), new_values.get(key))
    ]


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections to {"suite.aperture.kpc": 30.0, ...}; values of None are left out."""
    flattened: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flattened |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            flattened[prefix + key] = value
    return flattened


def only_adds(key: str, old: Any, new: Any) -> bool:
    """Whether all galaxies that passed with the old value also pass with the new one, with the same maps and truth."""
    if key in PLACES:
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
    """Add to a store's config the defaults of keys that suite files did not have when it was made."""
    try:
        suite = Suite(**config["suite"])
    except (KeyError, TypeError, ValueError):  # keys of another version: compared as they are
        return config
    return {**config, "suite": suite.model_dump(mode="json", exclude={"root"})}


def _words(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
