"""The gallery's pages as bytes, from the query of an address; `server.py` alone knows of the network."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave

from kinmass.eval.gallery import figure
from kinmass.eval.gallery.index import SORTS, STATES, Index, chosen
from kinmass.eval.gallery.stored import Answer, Network, StoredGalaxy, read_stored, reasons
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.look.picture import QUANTITIES, tile
from kinmass.gen.storage import store
from kinmass.gen.storage.chunks import fingerprint
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.run.out_of_distribution import OOD_THRESHOLD

#: Galaxies on a page of the list.
PER_PAGE = 60
#: Galaxies whose answers are kept for the pictures that follow a page.
_KEPT = 8
_FILTERS = ("suite", "state", "name", "mass_min", "mass_max", "error_min", "ood_min", "sort", "descending", "network")


class Refusal(ValueError):
    """An address that leads nowhere; the message says why in a sentence."""


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def wanted_of(query: Mapping[str, str], suites: list[str], n_sources: int) -> dict[str, Any]:
    """Return the filters of `index.chosen`, and `page` and `network`, from a query. Raises Refusal."""
    wanted: dict[str, Any] = {key: query.get(key, "").strip() for key in ("suite", "state", "name")}
    for key in ("mass_min", "mass_max", "error_min", "ood_min"):
        text = query.get(key, "").strip()
        try:
            wanted[key] = float(text) if text else None
        except ValueError:
            raise Refusal(f"{key.replace('_', ' ')} must be a number, not {text!r}.") from None
    wanted["sort"] = query.get("sort", "order")
    wanted["descending"] = query.get("descending", "") == "1"
    try:
        wanted["page"], wanted["network"] = int(query.get("page", "1")), int(query.get("network", "0"))
    except ValueError:
        raise Refusal("A page and a network are numbers.") from None
    if wanted["suite"] and wanted["suite"] not in suites:
        raise Refusal(f"There is no suite {wanted['suite']!r}; there are {', '.join(suites) or 'none'}.")
    if wanted["sort"] not in SORTS or (wanted["state"] and wanted["state"] not in STATES.values()):
        raise Refusal(
            f"Galaxies are sorted by {', '.join(SORTS)}, and their state is {', '.join(STATES.values())}; "
            f"there is no {wanted['sort']!r} or {wanted['state']!r} of these."
        )
    if wanted["network"] and not 0 <= wanted["network"] < n_sources:
        raise Refusal(f"There is no network number {wanted['network']}; there are {n_sources}.")
    return wanted


class Pages:
    """Makes the pages of a store from its index; networks are asked when a galaxy is looked at."""

    def __init__(self, index: Index, networks: list[Network]):
        self.index, self.networks = index, networks
        environment = jinja2.Environment(
            autoescape=True, loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates = {
            name: environment.get_template(f"{name}.html.j2") for name in ("listing", "galaxy", "message")
        }
        self._kept: OrderedDict[tuple[str, int, int, bytes], list[Answer]] = OrderedDict()
        self.instruments = {n.inference.instrument.name: n.inference.instrument for n in networks}
        self.instruments = {**self.instruments, **{k: v for k, v in INSTRUMENTS.items() if k not in self.instruments}}

    def _source_words(self) -> list[str]:
        """A label for each of the index's sources, that of its network."""
        words = []
        for source in self.index.sources:
            of_run = [n for n in self.networks if n.inference.path == source.run and n.tracer == source.tracer]
            words.append(of_run[0].label if of_run else source.label)
        return words

    def style(self, query: Mapping[str, str]) -> bytes:
        """The style sheet."""
        return (Path(__file__).parent / "style.css").read_bytes()

    def message(self, sentence: str) -> bytes:
        """A page with one sentence on it."""
        return self._templates["message"].render(store=self.index.path.name, sentence=sentence).encode()

    def _wanted(self, query: Mapping[str, str]) -> dict[str, Any]:
        return wanted_of(query, sorted(self.index.suites), len(self.index.sources))

    def _rows(self, wanted: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All galaxies' columns, and the rows that are wanted, in order."""
        columns = self.index.columns(wanted["network"])
        return columns, chosen(columns, wanted)

    def listing(self, query: Mapping[str, str]) -> bytes:
        """The list of galaxies. Raises Refusal for a filter that means nothing."""
        wanted = self._wanted(query)
        columns, rows = self._rows(wanted)
        n_pages = max(1, -(-len(rows) // PER_PAGE))
        page = min(max(wanted["page"], 1), n_pages)
        here = rows[(page - 1) * PER_PAGE : page * PER_PAGE]
        self.index.ensure([(columns["suite"][i], int(columns["number"][i])) for i in here])
        columns = self.index.columns(wanted["network"])
        why, kept_query = reasons(self.index.path), {k: query[k] for k in _FILTERS if query.get(k)}
        cards = [self._card(columns, int(i), why, kept_query) for i in here]
        states = {word: int((columns["state"] == state).sum()) for state, word in STATES.items()}
        return (
            self._templates["listing"]
            .render(
                store=self.index.path.name, cards=cards, n_found=len(rows), n_all=len(columns["number"]), page=page,
                n_pages=n_pages, wanted=wanted, query=urlencode(kept_query), suites=sorted(self.index.suites),
                states=states, sort_links=self._sort_links(wanted, kept_query), sources=self._source_words(),
                threshold=OOD_THRESHOLD,
                has_scores=bool(np.isfinite(columns["error"]).any()), n_stale=self.index.n_stale(wanted["network"]),
                n_whole=self.index.n_whole(), is_checking=self.index.check,
                trouble=self.index.trouble, is_filtered=any(key not in ("sort", "descending") for key in kept_query),
            )
            .encode()
        )  # fmt: skip

    def _sort_links(self, wanted: dict[str, Any], kept_query: dict[str, str]) -> list[dict[str, Any]]:
        """A link for each way to sort: the largest come first, and the smallest when it is followed once more."""
        links = []
        for key, words in SORTS.items():
            if key in ("error", "worst", "ood") and not self.index.sources:
                continue
            active = wanted["sort"] == key
            descending = not wanted["descending"] if active else key != "order"
            query = urlencode(kept_query | {"sort": key, "descending": "1" if descending else ""})
            arrow = (" ↓" if wanted["descending"] else " ↑") if active else ""
            links.append({"words": words, "query": query, "active": active, "arrow": arrow})
        return links

    def _card(
        self, columns: Mapping[str, np.ndarray], i: int, why: Mapping[tuple[str, str], str], kept_query: dict[str, str]
    ) -> dict[str, Any]:
        suite, number, name = columns["suite"][i], int(columns["number"][i]), str(columns["name"][i])
        state = STATES[int(columns["state"][i])]
        reason = {
            "failed": why.get((suite, name), "the reason is not noted in failures.jsonl"),
            "damaged": self.index.suites[suite].problems.get(number, "its arrays cannot be read"),
            "pending": "not mapped yet",
        }.get(state, "")
        numbers = {key: float(columns[key][i]) for key in ("mass", "size", "error", "worst", "ood", "strangest")}
        values = {key: None if np.isnan(number) else number for key, number in numbers.items()}
        views = {key: self._view_link(suite, number, int(columns[key][i]), kept_query)
                 for key in ("worst_view", "strangest_view")}  # fmt: skip
        return {"suite": suite, "number": number, "name": name, "state": state, "reason": reason, **values, **views,
                "has_gas": bool(columns["has_gas"][i])}  # fmt: skip

    def _view_link(self, suite: str, number: int, view: int, kept_query: dict[str, str]) -> dict[str, Any]:
        """A view's number, -1 for none, and the address of its page."""
        return {"number": view, "address": f"/galaxy/{suite}/{number}?{urlencode(kept_query | {'view': str(view)})}"}

    def _kept_views(self, galaxy: StoredGalaxy, network: Network, kept_query: dict[str, str]) -> list[dict[str, Any]]:
        """A network's worst and strangest view of a galaxy by what tables kept; none where nothing is kept."""
        table, found = self.index.suites[galaxy.suite], []
        for number, source in enumerate(self.index.sources):
            scores = table.scores.get(number)
            if scores is None or (source.run, source.tracer) != (network.inference.path, network.tracer):
                continue
            for values, views in ((scores.worst, scores.worst_view), (scores.strangest, scores.strangest_view)):
                link = self._view_link(galaxy.suite, galaxy.number, int(views[galaxy.number]), kept_query)
                found.append(link | {"value": float(values[galaxy.number])})
        return found

    def _read(self, suite: str, number: str) -> StoredGalaxy:
        """Read a galaxy, and note in the index where it is damaged. Raises Refusal, NotShown or StoreError."""
        table = self.index.suites.get(suite)
        if table is None:
            raise Refusal(f"There is no suite {suite!r}; there are {', '.join(sorted(self.index.suites)) or 'none'}.")
        try:
            galaxy = read_stored(self.index.path, suite, int(number))
        except store.StoreError as error:
            if int(number) < len(table.names):
                table.damaged(int(number), str(error))
            raise
        table.is_whole[galaxy.number] = True
        return galaxy

    def _view(self, galaxy: StoredGalaxy, text: str) -> int:
        """The number of a view. Raises Refusal or NotShown."""
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise Refusal("A view is a number.")
        galaxy.view(int(text))
        return int(text)

    def _instrument(self, query: Mapping[str, str]) -> Instrument | None:
        name = query.get("instrument", "")
        if name and name not in self.instruments:
            raise Refusal(f"There is no instrument {name!r}; there are {', '.join(self.instruments)}.")
        return self.instruments.get(name)

    def tile(self, query: Mapping[str, str], suite: str, number: str) -> bytes:
        """The small picture of a galaxy's first view, a pixel for a pixel."""
        buffer = io.BytesIO()
        imsave(buffer, tile(self._read(suite, number).maps(0)), format="png")
        return buffer.getvalue()

    def map(self, query: Mapping[str, str], suite: str, number: str, view: str, channel: str) -> bytes:
        """One map of one view, with its colour bar."""
        galaxy = self._read(suite, number)
        if int(channel) not in QUANTITIES:
            raise Refusal(f"Channel {channel} holds counts and is not drawn; {list(QUANTITIES)} are.")
        instrument = self._instrument(query)
        try:
            return _png(figure.map_figure(galaxy, self._view(galaxy, view), int(channel), instrument))
        except ValueError as error:  # an instrument that does not fit the maps
            raise Refusal(str(error)) from error

    def profile(self, query: Mapping[str, str], suite: str, number: str, view: str) -> bytes:
        """The true profile and what each network is away from it."""
        galaxy = self._read(suite, number)
        v = self._view(galaxy, view)
        return _png(figure.profile_figure(galaxy, v, self._answers(galaxy, v)))

    def _answers(self, galaxy: StoredGalaxy, view: int) -> list[Answer]:
        """What every network says of a view, kept as long as the store holds the same of the galaxy."""
        key = galaxy.suite, galaxy.number, view, fingerprint(galaxy.group, np.array([galaxy.number]))
        if key not in self._kept:
            self._kept[key] = [galaxy.ask(network, view) for network in self.networks]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def galaxy(self, query: Mapping[str, str], suite: str, number: str) -> bytes:
        """The page of one galaxy: maps, profile, posteriors; or why it cannot be shown, as NotShown or StoreError."""
        galaxy = self._read(suite, number)
        view = self._view(galaxy, query.get("view", "0"))
        instrument = self._instrument(query)
        truth, r_e = galaxy.view(view).log10_menc[0].numpy(), galaxy.frame_kpc(view)[1]
        kept_query = {k: query[k] for k in _FILTERS if query.get(k)}
        before, after = self._neighbours(query, galaxy)
        stars, gas, dark = (galaxy.mass_msun[store.COMPONENTS.index(c), -1] for c in ("stars", "gas", "dark"))
        masses = [(word, f"{np.log10(m):.2f}" if m > 0 else "none") for word, m in
                  (("stars", stars), ("gas", gas), ("dark matter", dark))]  # fmt: skip
        channels = [(c, QUANTITIES[c].tracer) for c in QUANTITIES]
        return (
            self._templates["galaxy"]
            .render(
                store=self.index.path.name, galaxy=galaxy, view=view, truth=truth, r_e=r_e, masses=masses,
                radii=[(re, re * r_e) for re in RADII_RE], answers=self._answers(galaxy, view), channels=channels,
                instrument="" if instrument is None else instrument.name, instruments=list(self.instruments),
                query=urlencode(kept_query), kept=kept_query, before=before, after=after, threshold=OOD_THRESHOLD,
                views=[f"{i:.0f}" for i in galaxy.inclination_deg],
                kept_views=[self._kept_views(galaxy, network, kept_query) for network in self.networks],
            )
            .encode()
        )  # fmt: skip

    def _neighbours(self, query: Mapping[str, str], galaxy: StoredGalaxy) -> tuple[str, str]:
        """Addresses of the galaxies before and after this one in the list that its page was opened from, or ""."""
        columns, rows = self._rows(self._wanted(query))
        here = np.flatnonzero((columns["suite"][rows] == galaxy.suite) & (columns["number"][rows] == galaxy.number))
        if not len(here):
            return "", ""

        def address(place: int) -> str:
            """Return the address of the galaxy at a place in the list, "" outside of it."""
            if not 0 <= place < len(rows):
                return ""
            return f"/galaxy/{columns['suite'][rows[place]]}/{columns['number'][rows[place]]}"

        return address(int(here[0]) - 1), address(int(here[0]) + 1)
