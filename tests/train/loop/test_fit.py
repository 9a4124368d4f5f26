"""Fitting: one process or many, stopped, killed, resumed; bad input; what TensorBoard shows."""

import errno
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
import zarr
from conftest import LOCKS, ROOT, VARIED
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kinmass import train
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.storage import store
from kinmass.train import distributed as ddp
from kinmass.train.__main__ import main
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE, read_views, usable
from kinmass.train.data.sampler import Lanes, Shuffle, draws, random_bits
from kinmass.train.launch.ports import free_port
from kinmass.train.launch.status import states
from kinmass.train.loop.begun import check, with_batch_for
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import Stopped, _hold, fit
from kinmass.train.loop.fitter import SAMPLES, NonFinite
from kinmass.train.loop.prepare import prepare
from kinmass.train.model.density import ProfileDensity
from kinmass.train.model.network import MassModel
from kinmass.train.run.checkpoint import RunError, load, read_config, read_last, read_tensors, write_json, write_tensors

SUITES = ("bursty", "middle", "quiet")
SMALL: dict[str, object] = {"width": 4, "steps": 12, "round_steps": 4, "batch": 8}
#: Seconds in which every process has to end once one has died; imports of the others included.
SOON = 60


def config_of(map_store: Path, **options: object) -> FitConfig:
    return FitConfig(str(map_store), **({"tracer": "both", "suites": SUITES} | SMALL | options))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "model.pt")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def start(
    arguments: list[object],
    world: int = 1,
    extra_environment: dict[str, str] | None = None,
    before_start: Callable[[], None] | None = None,
) -> list[warm.Process]:
    """Python with some arguments as every rank of `world`, each started by hand as srun would.

    before_start: called in each process before anything else.
    """
    port = str(free_port())
    shared_environment = os.environ | {"PYTHONPATH": str(ROOT)} | (extra_environment or {})
    started = []
    for rank in range(world):
        rank_environment = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)} if world > 1 else {}
        env = shared_environment | rank_environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(warm.Process([*map(str, arguments)], env, before_start))
    return started


def fit_line(map_store: Path, out: Path, **options: object) -> list[object]:
    flags = [str(x) for k, v in (SMALL | options).items() for x in (f"--{k.replace('_', '-')}", v)]
    return ["-m", "train", "fit", "--store", map_store, "--tracer", "both", "--out", out, *flags]


def end(processes: list[warm.Process], timeout: float = 200) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of each."""
    try:
        texts = [p.communicate(timeout=timeout) for p in processes]
    except subprocess.TimeoutExpired as too_long:
        too_long.add_note(f"exit codes {[p.poll() for p in processes]}")
        raise
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def assert_refused(config: FitConfig, run: Path, words: str) -> None:
    """A fit does not begin, nor go on, and says so in these words."""
    with pytest.raises(RunError, match=words):
        fit(config, run, quiet=True)


def stop_at_once(config: FitConfig, run: Path, words: str = "stopped at step") -> None:
    """Begin a fit, or go on with it, and stop before its next step."""
    ddp.request_stop()
    with pytest.raises(Stopped, match=words):
        fit(config, run)


def wait_for(path: Path, processes: list[warm.Process], after: float = 0.0) -> None:
    """Until a file is written later than `after`, or a process has ended."""
    for _ in range(6000):
        if any(p.poll() is not None for p in processes) or (path.exists() and path.stat().st_mtime > after):
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} was never written")


def scalars(run: Path) -> dict[str, list[int]]:
    """Steps of every curve."""
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "images": 0}).Reload()
    steps = {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return steps | {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}


# ---- what a step sees


def test_random_bits_are_splitmix64():
    """The published sequence for seed 0."""
    bits = random_bits(torch.arange(1, 4), 0)
    assert [x % 2**64 for x in bits.tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_noise_is_normal_and_belongs_to_the_sample():
    bits, noise = draws(torch.arange(4000), 8, 3)
    moments = [float((noise**k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.02)
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.01
    assert torch.bincount(bits & 15).float().std() < 4 * np.sqrt(4000 / 16)
    samples = torch.tensor([17, 3999, 0])
    assert torch.equal(draws(samples, 8, 3)[1], noise[samples])
    assert not torch.equal(draws(samples, 8, 4)[1], noise[samples])


@pytest.mark.parametrize(("n", "batch"), [(50, 8), (5, 8), (64, 8)])
def test_every_view_comes_once_an_epoch(n, batch):
    order = Shuffle(n, batch, 1)
    rows = np.concatenate([order.rows(step) for step in range(n)])  # batch epochs
    for epoch in range(batch):
        assert sorted(rows[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert not np.array_equal(rows[:n], rows[n : 2 * n])


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_lanes_pass_every_view_once_an_epoch(window):
    galaxy = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 6, 40))
    lanes = Lanes(galaxy, 8, 1, window)
    for epoch in range(2):
        numbers = range(epoch * lanes.windows(), (epoch + 1) * lanes.windows())
        rows = np.concatenate([lanes.rows(k) for k in numbers])
        assert rows.shape == (lanes.steps, 8)
        counts = np.bincount(rows.ravel(), minlength=len(galaxy))
        assert counts.min() == 1
        assert counts.sum() - len(galaxy) == lanes.steps * 8 - len(galaxy) < 8
        n_filled = min(lanes.steps, window) * 8 / galaxy.size * 40  # galaxies that a window's views would fill
        assert max(len(set(galaxy[lanes.rows(k)].ravel())) for k in numbers) <= 2 * n_filled + 2 * lanes.lanes
    steps = [lanes.at(step) for step in range(2 * lanes.steps)]
    assert len(set(steps)) == len(steps)


def open_batches(map_store: Path, batch: int, window: int = 0) -> tuple[loader.Galaxies, loader.Loader]:
    """The galaxies to train on and the batches of their views, as one process has them."""
    galaxies = loader.galaxies_of(map_store, loader.done_galaxies(map_store, SUITES), "train")
    selection = loader.ViewSelection("both", INSTRUMENTS["ifu"], 0, lambda observed, r_e: torch.zeros(len(observed)))
    return galaxies, loader.open_loader(galaxies, selection, batch, 0, window, torch.device("cpu"))


@pytest.mark.parametrize("window", [0, 1, 3])
def test_loaders_give_the_maps_of_the_store(map_store, window):
    """Kept in memory or streamed: the maps of the view that the loader names, as read_views reads them."""
    galaxies, batches = open_batches(map_store, 8, window)
    expected = {}
    for suite in SUITES:
        views = read_views(map_store, suite, "train")
        views = views[usable(views, "both", INSTRUMENTS["ifu"])]
        expected |= {
            name: (view_maps, r_e)
            for name, view_maps, r_e in zip(views.ids(), views.maps, views.half_mass_radius_kpc, strict=True)
        }
    assert len(batches.table) == len(expected)
    names_seen = set()
    for step in (*range(10), 23):  # the last as after going on
        rows, maps = batches.next(step)
        for row, view_maps in zip(rows, maps, strict=True):
            name = galaxies.id(batches.table.place[row])
            names_seen.add(name)
            assert torch.equal(view_maps, expected[name][0])
            assert batches.table.half_mass_radius_kpc[row] == expected[name][1]
    batches.close()
    assert len(names_seen) == len(expected)


def test_a_larger_store_than_memory_is_streamed(map_store, tmp_path, capsys):
    assert loader.default_memory_gb() > 0.01
    fit(config_of(map_store, memory_gb=1e-4), tmp_path / "run")
    assert re.search(r"streamed, \d+ steps at a time", capsys.readouterr().err)


def test_a_run_that_is_given_less_memory_goes_on_with_it(map_store, run, capsys):
    """It began on a larger machine, with all maps in memory: here it would be killed, whatever --memory-gb says."""
    for memory_gb, how in ((0.0, "maps in memory"), (1e-4, "streamed, 1 steps at a time"), (0.0, "streamed, 1 steps")):
        stop_at_once(config_of(map_store, **LONG, memory_gb=memory_gb), run)
        messages = capsys.readouterr().err
        assert how in messages
        assert "going on from step" in messages


# ---- many processes

SHARE = """
import json, sys
from pathlib import Path
import torch
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
store, suites, instrument = Path(sys.argv[1]), ("bursty", "middle", "quiet"), INSTRUMENTS["ifu"]
with ddp.process_group() as device:
    status = loader.done_galaxies(store, suites)
    val = loader.galaxies_of(store, status, "val")
    views, observed, place = loader.validation_views(val, "both", instrument, 1.0)
    train = loader.galaxies_of(store, status, "train")
    selection = loader.ViewSelection("both", instrument, 0, lambda observed, r_e: torch.zeros(len(observed)))
    batches = loader.open_loader(train, selection, 6, 0, 0, device)
    mapped = {line.split()[4] for line in open("/proc/self/maps") if "memfd:kinmass" in line}
    rows, maps = batches.next(0)
    print(json.dumps([views.ids(), sorted(mapped), rows.tolist(), maps.sum((1, 2, 3)).tolist()]), flush=True)
"""


def test_processes_share_the_maps_and_no_view_is_validated_twice(map_store):
    shares = []
    for code, printed, errors in end(start(["-c", SHARE, map_store], 2)):
        assert code == 0, errors
        shares.append(json.loads(printed.strip().splitlines()[-1]))
    ids = [name for share in shares for name in share[0]]
    expected = []
    for suite in SUITES:
        views = read_views(map_store, suite, "val")
        expected += views[usable(views, "both", INSTRUMENTS["ifu"])].ids()
    assert sorted(ids) == sorted(expected)
    assert len({inode for share in shares for inode in share[1]}) == 1  # one memory for all
    assert shares[0][2] == shares[1][2]
    sums = np.empty(6)
    for rank in range(2):
        sums[rank::2] = shares[rank][3]
    maps_of_one_process = open_batches(map_store, 6)[1].next(0)[1]
    np.testing.assert_array_equal(sums, maps_of_one_process.sum((1, 2, 3)))


def one_validation_galaxy(map_store: Path) -> tuple[str, ...]:
    """Suites that together have one galaxy to validate on: of two processes, one has none."""
    for suites in (SUITES[:1], SUITES[1:2], SUITES[2:], SUITES[:2], SUITES[1:], (SUITES[0], SUITES[2])):
        if sum(len(set(read_views(map_store, suite, "val").galaxy)) for suite in suites) == 1:
            return suites
    raise AssertionError("no suites with one galaxy to validate on")


@pytest.mark.parametrize(
    ("precision", "memory_gb", "instrument", "tolerance"),
    [
        # What float32 rounds differently in other sums, Adam makes steps of: 7e-7 of weights of order 0.1.
        ("float32", 0.0, "ifu", 1e-6),
        # The law itself; streamed, with a process that has nothing to validate, and looks that are drawn.
        ("float64", 1e-4, "survey", 1e-12),
    ],
)
def test_two_processes_train_what_one_does(map_store, tmp_path, precision, memory_gb, instrument, tolerance):
    suites = one_validation_galaxy(map_store) if precision == "float64" else SUITES
    options = {"precision": precision, "memory_gb": memory_gb, "round_steps": 6, "instrument": instrument}
    options |= VARIED
    fit(config_of(map_store, suites=suites, **options), tmp_path / "1", quiet=True)
    arguments = fit_line(map_store, tmp_path / "2", suites=",".join(suites), **options)
    done = end(start(arguments, 2))
    assert [code for code, _, _ in done] == [0, 0], done
    assert "2 processes on" in done[0][2]
    weights_of_one, weights_of_two = (weights_of(tmp_path / n) for n in "12")
    assert weights_of_one.keys() == weights_of_two.keys()
    for name in weights_of_one:
        torch.testing.assert_close(weights_of_two[name], weights_of_one[name], rtol=0, atol=tolerance, msg=name)
    curves = [scalars(tmp_path / n) for n in "12"]
    assert curves[0] == curves[1]


BREAK = """
import os, sys, torch
from kinmass.train.data import loader
from kinmass.train.__main__ import main
from kinmass.train.model.network import MassModel
fault, rank = sys.argv[1], int(os.environ["RANK"])
if fault == "exception" and rank == 1:
    unbroken_next = loader.InMemory.next
    def broken(self, step):
        if step == 3:
            raise RuntimeError("a fault of rank 1")
        return unbroken_next(self, step)
    loader.InMemory.next = broken
if fault == "nan" and rank == 1:
    forward = MassModel.forward
    def spoilt(self, *arguments):
        value = forward(self, *arguments)
        return torch.where(torch.arange(value.shape[1]) == 2, float("nan"), value)
    MassModel.forward = spoilt
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("launcher", ["by hand", "torchrun"])
def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(map_store, tmp_path, launcher):
    arguments = ["-c", BREAK, "exception", *fit_line(map_store, tmp_path / "run", steps=100_000)[2:]]
    began = time.monotonic()
    if launcher == "by hand":
        first, second = end(start(arguments, 2), SOON)
        assert first[0] != 0
        assert second[0] == 1
        errors = second[2]
    else:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", sys.executable]
        (done,) = end(start([*torchrun, *arguments]), SOON)
        assert done[0] != 0
        errors = done[2]
    assert "Traceback" in errors
    assert "RuntimeError: a fault of rank 1" in errors
    assert "process 1 of 2" in errors
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_ends_the_others(map_store, tmp_path, number):
    """A killed process is noticed at once, one that hangs after the stated time."""
    line = fit_line(map_store, tmp_path / "run", steps=100_000, round_steps=100_000, checkpoint_minutes=0)
    processes = start(line, 2, {"KINMASS_TIMEOUT_MINUTES": "0.1"} if number == signal.SIGSTOP else None)
    wait_for(tmp_path / "run" / "last.pt", processes)
    processes[1].send_signal(number)
    code, _, errors = end(processes[:1], 30)[0]
    processes[1].kill()
    end(processes[1:])
    assert code == 1
    assert "process 0 of 2" in errors


ALONE = """
import os, signal, sys, time
from kinmass.train import distributed as ddp
seconds, dies = float(sys.argv[1]), sys.argv[2] == "dies"
waits_at_most = 60 * float(os.environ["KINMASS_TIMEOUT_MINUTES"])
def alone():
    time.sleep(seconds)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done by %d" % ddp.rank()
with ddp.process_group():
    began = time.monotonic()
    print(ddp.from_first(alone), time.monotonic() - began > waits_at_most)
    def refuse():
        raise ValueError("no")
    try:
        ddp.from_first(refuse)
    except ValueError as error:
        print(error)
"""


def test_what_rank_0_does_alone_is_waited_for_while_it_lives(tmp_path):
    """As it calibrates, which may take longer than a process that hangs is waited for."""
    done = end(start(["-c", ALONE, 7, "lives"], 2, {"KINMASS_TIMEOUT_MINUTES": "0.1"}))
    assert [(code, printed) for code, printed, _ in done] == [(0, "done by 0 True\nno\n")] * 2, done
    began = time.monotonic()
    (killed, (code, _, errors)) = end(start(["-c", ALONE, 1, "dies"], 2, {"KINMASS_TIMEOUT_MINUTES": "5"}), SOON)
    assert killed[0] == -signal.SIGKILL
    assert code == 1
    assert "process 1 of 2" in errors
    assert time.monotonic() - began < SOON


def test_a_loss_that_is_no_number_on_one_rank_is_named_by_all(map_store, tmp_path):
    done = end(start(["-c", BREAK, "nan", *fit_line(map_store, tmp_path / "run")[2:]], 2))
    assert [code for code, _, _ in done] == [1, 1], done
    messages = [re.search(r"kinmass fit: (.*)", errors)[1] for _, _, errors in done]
    galaxies, batches = open_batches(map_store, 8)
    culprit = galaxies.id(batches.table.place[batches.next(0)[0][1::2][2]])
    told = [message.split("; look at them")[0] for message in messages]
    assert told == [f"loss is not finite at step 0; views: {culprit}"] * 2


def test_a_diverging_fit_names_the_views_and_keeps_good_weights(map_store, tmp_path):
    config = config_of(map_store, learning_rate=1e30, checkpoint_minutes=0)
    with pytest.raises(NonFinite, match=r"is not finite at step \d+; views: .*/.* view \d"):
        fit(config, tmp_path / "run", quiet=True)
    state, _ = read_last(tmp_path / "run")
    assert state is not None
    assert all(torch.isfinite(p).all() for p in state["model"].values())


def test_a_fit_without_any_finite_validation_is_not_called_finished(map_store, tmp_path):
    """Its only step spoils the weights, which no loss after it can tell."""
    config = config_of(map_store, learning_rate=1e30, steps=1, round_steps=1)
    for _ in range(2):  # nor does it end otherwise when it goes on
        with pytest.raises(NonFinite, match=r"not finite after any of 1 steps.*lower --learning-rate"):
            fit(config, tmp_path / "run", quiet=True)
    assert not read_config(tmp_path / "run")["finished"]
    assert not (tmp_path / "run" / "model.pt").exists()


def test_no_thread_is_left_behind_by_an_error(map_store, tmp_path):
    """Neither that of the loader nor TensorBoard's."""
    threads = set(threading.enumerate())
    with pytest.raises(NonFinite):
        fit(config_of(map_store, learning_rate=1e30, round_steps=1, memory_gb=1e-4), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "tensorboard").exists()
    threads_left = set(threading.enumerate()) - threads
    assert not [x for x in threads_left if x.name.startswith("maps") or type(x).__name__ == "_AsyncWriterThread"]


@pytest.mark.parametrize(
    ("variable", "launcher"),
    [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpiexec"), ("PMI_SIZE", "mpiexec")],
)
def test_a_launcher_without_ranks_is_refused(map_store, tmp_path, monkeypatch, capsys, variable, launcher):
    monkeypatch.setenv(variable, "4")
    assert main([str(x) for x in fit_line(map_store, tmp_path / "run")[2:]]) == 2
    assert f"{launcher} started 4 processes but RANK and WORLD_SIZE are not set" in capsys.readouterr().err


# ---- stopped and killed


@pytest.fixture(scope="module")
def unbroken(map_store, tmp_path_factory):
    """Weights of fits that nobody disturbs, by number of steps."""
    made: dict[int, dict[str, torch.Tensor]] = {}

    def of(steps: int) -> dict[str, torch.Tensor]:
        if steps not in made:
            out = tmp_path_factory.mktemp("unbroken") / "run"
            fit(config_of(map_store, steps=steps, round_steps=4 if steps == 12 else 10), out, quiet=True)
            made[steps] = weights_of(out)
        return made[steps]

    return of


@pytest.mark.parametrize("world", [1, 2])
def test_killed_at_any_moment_it_ends_with_the_same_weights_and_curves(map_store, tmp_path, world, unbroken):
    """kill -9 at moments drawn at random, and again: weights to the bit, curves without gaps or doubles."""
    steps = 40
    options = {"steps": steps, "round_steps": 10, "checkpoint_minutes": 0}
    if world == 1:
        expected = unbroken(steps)
    else:
        done = end(start(fit_line(map_store, tmp_path / "whole", **options), 2))
        assert [code for code, _, _ in done] == [0, 0], done
        expected = weights_of(tmp_path / "whole")
    moments, n_killed, last_write_s = np.random.default_rng(world), 0, 0.0
    for _ in range(3 if world == 1 else 2):
        processes = start(fit_line(map_store, tmp_path / "run", **options), world)
        wait_for(tmp_path / "run" / "last.pt", processes, last_write_s)
        time.sleep(moments.uniform(0, 0.5))
        processes[-1].kill()
        n_killed += end(processes, SOON)[-1][0] == -signal.SIGKILL
        last = tmp_path / "run" / "last.pt"
        last_write_s = last.stat().st_mtime if last.exists() else 0.0
    assert n_killed >= 1
    (tmp_path / "run" / ".partial-0123456789ab-last.pt").touch()  # as one leaves that is killed while it writes
    done = end(start(fit_line(map_store, tmp_path / "run", **options), world))
    assert [code for code, _, _ in done] == [0] * world, done
    assert same(weights_of(tmp_path / "run"), expected)
    curves = scalars(tmp_path / "run")
    assert curves.pop("examples") == [10, 20, 40]
    assert len(curves) > 30
    assert all(steps_of_curve == [10, 20, 30, 40] for steps_of_curve in curves.values()), curves
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "calibration.json",
        "model.pt",
        "ood.pt",
        "run.json",
        "tensorboard",
    ]


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(map_store, tmp_path, capsys):
    """Exit code 75; the same command, by another number of processes, goes on."""
    options = {"steps": 3000, "round_steps": 50, "patience": 1000}
    processes = start(fit_line(map_store, tmp_path / "run", **options), 2)
    wait_for(tmp_path / "run" / "last.pt", processes)
    processes[1].send_signal(signal.SIGTERM)
    done = end(processes, SOON)
    assert [code for code, _, _ in done] == [75, 75], done
    step = int(re.search(r"stopped at step (\d+) of 3000; the same command goes on", done[0][2])[1])
    assert "SIGTERM: stopping with a checkpoint" in done[1][2]
    assert read_tensors(tmp_path / "run" / "last.pt")["step"] == step >= 50
    ddp.request_stop()
    assert main([str(x) for x in fit_line(map_store, tmp_path / "run", **options)[2:]]) == 75
    assert f"stopped at step {step} of 3000" in capsys.readouterr().err


TOLD_TWICE = """
import sys, time
from pathlib import Path
from kinmass.train import distributed as ddp
with ddp.stop_on_signals():
    Path(sys.argv[1], "ready").touch()
    while not ddp.stop_requested():
        time.sleep(0.01)
    Path(sys.argv[1], "asked").touch()
    time.sleep(100)
"""


def test_a_second_signal_ends_at_once(tmp_path):
    (process,) = start(["-c", TOLD_TWICE, tmp_path])
    wait_for(tmp_path / "ready", [process])
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # torchrun passes on what Slurm sent already
    wait_for(tmp_path / "asked", [process])
    time.sleep(1.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert end([process], 10)[0][0] == -signal.SIGTERM


def test_request_stop_anywhere_goes_on_to_the_same_weights(map_store, tmp_path, unbroken):
    """As a launcher's own handler asks for it, in a thread where no handler can be set."""
    config, run, caught = config_of(map_store), tmp_path / "run", []

    def work() -> None:
        try:
            fit(config, run, quiet=True)
        except Stopped as stopped:
            caught.append(str(stopped))

    ddp.request_stop()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == ["stopped at step 0 of 12; the same command goes on from there"]
    with pytest.raises(RunError, match="not finished"):
        load(run)
    fit(config, run, quiet=True)
    assert same(weights_of(run), unbroken(12))


@pytest.fixture(scope="module")
def stopped(map_store, tmp_path_factory):
    """A run folder with two checkpoints, of a fit stopped under way; `run` is a copy to change."""
    run = tmp_path_factory.mktemp("stopped") / "run"

    def stop() -> None:
        wait_for(run / "previous.pt", [])
        ddp.request_stop()

    asking = threading.Thread(target=stop)
    asking.start()
    with pytest.raises(Stopped):
        fit(config_of(map_store, **LONG), run, quiet=True)
    asking.join()
    return run


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


LONG: dict[str, object] = {"steps": 60, "round_steps": 20, "checkpoint_minutes": 0.0}


def test_a_checkpoint_cut_short_falls_back_on_the_one_before(map_store, run, capsys):
    checkpoint = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(checkpoint[: len(checkpoint) // 2])
    step_before = read_tensors(run / "previous.pt")["step"]
    stop_at_once(config_of(map_store, **LONG), run, f"at step {step_before} of")
    messages = capsys.readouterr().err
    assert "last.pt: cannot be read as a checkpoint" in messages
    assert f"going on from previous.pt, step {step_before}" in messages
    for name in ("last.pt", "previous.pt"):
        (run / name).write_bytes(checkpoint[: len(checkpoint) // 2])
    assert_refused(config_of(map_store, **LONG), run, "remove it to begin anew")


@pytest.mark.parametrize("spoil", ["weights alone", "galaxies", "run", "step", "model", "sums"])
def test_a_file_that_is_no_checkpoint_of_a_fit_is_refused_in_words(map_store, run, capsys, spoil):
    """A copy of model.pt, say, in the place of last.pt: nothing of it is used, and the one before is."""
    good = read_tensors(run / "last.pt")
    bad = good["best_weights"] if spoil == "weights alone" else good | {spoil: {} if spoil == "run" else 0.5}
    write_tensors(run / "last.pt", bad)
    if spoil in ("model", "sums"):  # which only a network can tell
        assert_refused(config_of(map_store, **LONG), run, "its checkpoint is of another network")
        return
    stop_at_once(config_of(map_store, **LONG), run)
    assert "last.pt: holds no checkpoint of a fit: missing or wrong in it are" in capsys.readouterr().err


def test_another_network_or_store_is_refused_with_the_difference(map_store, tmp_path, run):
    with pytest.raises(RunError, match=r"settings: batch \(8 there, 16 asked for\), width \(4 there, 8 asked for\)"):
        fit(config_of(map_store, **LONG | {"width": 8, "batch": 16}), run, quiet=True)
    moved = shutil.copytree(map_store, tmp_path / "moved.zarr", ignore=LOCKS)
    stop_at_once(config_of(moved, **LONG), run)
    group = zarr.open_group(moved / "quiet", mode="r+")
    group.attrs["config"] = group.attrs["config"] | {"seed": 7}
    assert_refused(config_of(moved, **LONG), run, r"settings: seed of quiet \(0 there, 7 asked for\)")
    group.attrs["config"] = group.attrs["config"] | {"seed": 0}
    group["galaxy"][:2] = group["galaxy"][:2][::-1]
    assert_refused(config_of(moved, **LONG), run, "settings: list of galaxies of quiet")


def test_a_checkpoint_of_another_run_is_not_gone_on_with(map_store, run):
    """It fits the network, and would be trained on and kept under this run's name and seed."""
    checkpoint = read_tensors(run / "last.pt")
    checkpoint["run"]["fit"]["seed"] = 1
    write_tensors(run / "last.pt", checkpoint)
    assert_refused(
        config_of(map_store, **LONG), run, r"its checkpoint is of another run: seed \(1 there, 0 asked for\)"
    )


def test_galaxies_of_the_same_names_are_not_the_same_galaxies(own_store, run, finished):
    """Snapshots are numbered alike in most simulations: a store made of another one has the same names."""
    sizes = zarr.open_group(own_store / "quiet", mode="r+")["half_mass_radius"]
    sizes[:] = 1.001 * sizes[:]
    stop_at_once(config_of(own_store, **LONG), run)  # rounding, or a version that measures a little differently
    sizes[:] = 1.1 * sizes[:]
    assert_refused(config_of(own_store, **LONG), run, r"settings: R_e of snap_.* kpc there, .* kpc asked for\)")
    with pytest.raises(RunError, match=r"settings: R_e of snap_"):  # it would pass for one that was trained there
        fit(config_of(own_store, steps=4), finished, quiet=True)
    (finished / "calibration.json").unlink()
    assert_refused(config_of(own_store, steps=4), finished, r"settings: R_e of snap_")
    old = json.loads((finished / "run.json").read_text())
    for suite in old["store"].values():
        del suite["sizes"], suite["masses"]  # of a run from before they were kept
    (finished / "run.json").write_text(json.dumps(old))
    fit(config_of(own_store, steps=4), finished, quiet=True)


def test_two_fits_are_not_at_work_in_one_folder(map_store, tmp_path, finished, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("kinmass.train.run.checkpoint.PATIENCE_S", 0.1)
    with ExitStack() as held:
        _hold(run, held)
        with pytest.raises(store.StoreError, match=r"run is being written by process \d+"):
            fit(config_of(map_store, steps=4), run, quiet=True)
        _hold(finished, held)
        assert not list(finished.glob(".lock*"))  # nothing is written into it, so that it may be another's
    assert not run.exists()
    fit(config_of(map_store, steps=4), run, quiet=True)
    assert not list(run.glob(".lock*"))


def test_a_full_disk_costs_checkpoints_and_at_the_end_the_run(map_store, run):
    """The old checkpoint survives, TensorBoard's points wait, and the last save is an error of one sentence."""
    checkpoint_before = (run / "last.pt").read_bytes()
    max_bytes = len(checkpoint_before) // 20
    limit_file_size = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
    arguments = fit_line(map_store, run, **LONG)
    (done,) = end(start(arguments, before_start=limit_file_size))
    assert done[0] == 2, done
    assert re.search(r"no checkpoint at step \d+ .*File too large.*; the one before stays, training goes on", done[2])
    assert done[2].strip().splitlines()[-1].startswith("kinmass fit: no room left to write (File too large")
    assert (run / "last.pt").read_bytes() == checkpoint_before
    fit(config_of(map_store, **LONG), run, quiet=True)
    curves = scalars(run)
    assert all(steps_of_curve == [20, 40, 60] for tag, steps_of_curve in curves.items() if tag != "examples"), curves


def test_a_stop_without_room_for_its_checkpoint_does_not_promise_one(map_store, tmp_path, monkeypatch):
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kinmass.train.loop.rounds.write_last", no_room)
    words = "at step 0 of 12; no checkpoint of it could be written: .* the one before"
    stop_at_once(config_of(map_store), tmp_path / "run", words)


# ---- bad input


def test_unusable_views_are_left_out_counted_and_named(own_store, tmp_path, capsys):
    names = [str(name) for name in dict.fromkeys(read_views(own_store, "middle", "train").galaxy)][:2]
    group = zarr.open_group(own_store / "middle", mode="r+")
    numbers = [group["galaxy"][:].tolist().index(name) for name in names]
    maps = group["maps"][:]
    maps[numbers[0], 1, 2, 3, 4] = np.nan
    maps[numbers[1]] = 0
    group["maps"][:] = maps
    content = fit(config_of(own_store), tmp_path / "run")
    messages = capsys.readouterr().err
    assert f"left out 1 with maps that are not finite: middle/{names[0]} view 1\n" in messages
    assert f"left out 2 with empty maps: middle/{names[1]} view 0, middle/{names[1]} view 1\n" in messages
    assert content["training"]["left_out_why"] == {"maps that are not finite": 1, "empty maps": 2}
    assert re.search(
        r"warning: \d galax(y|ies) to validate on: .* 68 % of the truths are good to some \d\d %", messages
    )
    assert re.search(r"warning: \d views? to validate on: from fewer than 10 nothing follows on .* no scores", messages)


def test_a_store_still_being_written_is_used_as_far_as_it_is(own_store, tmp_path, capsys):
    """And so it stays for that run: galaxies that are finished later do not change it."""
    group = zarr.open_group(own_store / "quiet", mode="r+")
    group["status"][7:] = store.PENDING
    fit(config_of(own_store), tmp_path / "whole")
    assert "quiet: 5 of 12 galaxies are not mapped yet; using those that are done" in capsys.readouterr().err
    stop_at_once(config_of(own_store), tmp_path / "run")
    capsys.readouterr()
    group["status"][7:] = store.DONE
    fit(config_of(own_store), tmp_path / "run")
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    of_fewer = "when it began, and not on others: mapped galaxies of quiet (7 there, 12 now); for a network of all, "
    assert f"{tmp_path}/run is trained on the galaxies that {own_store} had {of_fewer}" in capsys.readouterr().err
    fit(config_of(own_store), tmp_path / "whole")  # which is finished
    assert f"{tmp_path}/whole is trained on the galaxies that {own_store} had {of_fewer}" in capsys.readouterr().err
    for filled in (True, False):
        assert of_fewer in check(config_of(own_store), tmp_path / "whole", filled)
    assert check(config_of(own_store), tmp_path / "new") == ""
    group["status"][:] = store.PENDING
    with pytest.raises(
        store.StoreError, match=r"suite quiet has no finished galaxy; .* or choose --suites bursty,midd"
    ):
        fit(config_of(own_store), tmp_path / "other", quiet=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tracer", "dust"], "gas, stars, both"),
        (["--tracer", "gas", "--suites", "nosuch"], "it has bursty, middle, quiet"),
        (["--tracer", "gas", "--instrument", "hubble"], "clean, ifu"),
        (["--tracer", "gas", "--store", "nowhere.zarr"], "no map store"),
        (["--tracer", "gas", "--batch", "-1"], "batch must be at least 1"),
        (["--tracer", "gas", "--precision", "float16"], "auto, float32, bf16, float64"),
        (["--tracer", "gas", "--seed", "-1"], "seed must be from 0 to 268435455, not -1"),
        (["--tracer", "gas", "--seed", "268435456"], "seed must be from 0 to"),
        (["--tracer", "gas", "--seed", "268435455", "--members", "2"], "seed must be from 0 to 268435455, not"),
        (["--tracer", "gas", "--learning-rate", "nan"], "learning_rate must be above 0, not nan"),
        (["--tracer", "gas", "--heat", "inf"], "heat must be 0 or a larger number, not inf"),
        (["--tracer", "gas", "--memory-gb", "nan"], "memory_gb must be 0 or a larger number, not nan"),
        (["--tracer", "gas", "--views", "-1"], "views must be at least 1, or 0 for all, not -1"),
        (["--tracer", "gas", "--fade", "2"], "fade is a share of views, from 0 to 1, not 2.0"),
        (["--tracer", "gas", "--galaxies", "1", "--views", "1"], "is the only view to train on in"),
        (["--tracer", "gas", "--suites", "quiet,,quite"], "no suite 'quite'; it has bursty, middle, quiet"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(options, words, map_store, tmp_path, capsys):
    assert main(["fit", "--store", str(map_store), "--out", str(tmp_path / "run"), *options]) == 2
    messages = capsys.readouterr().err
    assert words in messages
    assert len(messages.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_checkpoints_never_execute(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'hacked'}",))

    buffer = io.BytesIO()
    torch.save({"a": Bomb()}, buffer, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        read_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "hacked").exists()
    (tmp_path / "short.pt").write_bytes(buffer.getvalue()[:100])
    with pytest.raises(RunError):
        read_tensors(tmp_path / "short.pt")


# ---- what a run shows


def test_run_folder_tensorboard_and_refusals(map_store, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [str(x) for x in fit_line(map_store, run)[2:]]
    assert main(arguments) == 0
    messages = capsys.readouterr().err
    for words in ("12/12", "epoch=", "loss=", "dispersion=", "views/s="):
        assert words in messages
    content = json.loads((run / "run.json").read_text())
    assert content["fit"]["suites"] == sorted(SUITES)
    assert content["training"]["galaxies"] > 20
    curves = scalars(run)
    assert curves.pop("examples") == [4, 8, 12]
    single_curves = {
        "loss/train",
        "loss/val",
        "loss/val_calibrated",
        "learning_rate",
        "gradient_norm",
        "samples_per_second",
        "data_wait",
    }
    means = {f"{name}/mean" for name in ("dispersion", "bias", "coverage")}
    radii = {f"{name}/{x:.2f}_Re" for name in ("dispersion", "bias", "coverage") for x in RADII_RE}
    assert set(curves) == single_curves | means | radii
    assert all(steps == [4, 8, 12] for steps in curves.values())
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert not [p for p in (run / "tensorboard").iterdir() if p.is_dir()]  # hyperparameters are not another run
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert main(arguments) == 0  # left alone
    assert "best after" in capsys.readouterr().out
    assert main(arguments[:7]) == 2
    assert "settings: batch (8 there, 64 asked for), round_steps (4 there, 100 asked for)" in capsys.readouterr().err


def test_mixed_precision_learns_as_float32_does(map_store, tmp_path):
    losses = []
    for precision in ("float32", "bf16"):
        content = fit(config_of(map_store, precision=precision, steps=4), tmp_path / precision, quiet=True)
        losses.append(content["best"]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


# ---- what a power cut or another hand does to a run folder


@pytest.mark.parametrize("content", [b"", b"[]", None])
def test_a_run_json_that_is_lost_is_told_by_the_checkpoint(map_store, stopped, run, capsys, content):
    content_before = json.loads((run / "run.json").read_text())
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_bytes(content)
    assert_refused(config_of(map_store, **LONG | {"width": 8}), run, r"settings: width \(4 there, 8 asked for\)")
    stop_at_once(config_of(map_store, **LONG), run)
    messages = capsys.readouterr().err
    assert f"run.json is {'missing' if content is None else 'damaged'}; going by what the checkpoint says" in messages
    assert f"going on from step {read_tensors(stopped / 'last.pt')['step']}" in messages
    assert json.loads((run / "run.json").read_text()) == content_before


def test_a_run_json_that_is_lost_before_anything_was_trained(map_store, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").touch()
    fit(config_of(map_store, steps=4), run, quiet=True)
    assert load(run)
    (run / "run.json").write_text("")
    assert_refused(config_of(map_store, steps=4), run, "damaged, and nothing else says of what its weights are; remove")


@pytest.fixture(scope="module")
def two_runs(map_store, tmp_path_factory):
    """Fits that differ in their seed alone; `finished` is a copy of the first to change."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        fit(config_of(map_store, steps=4, seed=seed), folder / str(seed), quiet=True)
    return folder


@pytest.fixture
def finished(two_runs, tmp_path):
    return shutil.copytree(two_runs / "0", tmp_path / "finished")


def test_what_lies_evenly_about_the_truth_has_no_bias(map_store, monkeypatch):
    """It was that of the lower one of the two samples in the middle: -.05 of the posterior's width."""
    fitter = prepare(config_of(map_store, steps=8), torch.device("cpu")).fitter
    about = torch.linspace(-1, 1, SAMPLES)[:, None, None] + fitter._val_views.log10_menc + 0.25
    monkeypatch.setattr(MassModel, "profiles", lambda *_: about)
    values = fitter._validate()
    assert values["bias/mean"] == pytest.approx(0.25, abs=1e-5)
    assert values["dispersion/mean"] == pytest.approx(0, abs=1e-5)


def test_one_galaxy_to_validate_on_has_no_dispersion(map_store, tmp_path, capsys):
    """What was called so was the scatter of its own views, or .000 of a single one."""
    suites = ",".join(one_validation_galaxy(map_store))
    line = [str(x) for x in fit_line(map_store, tmp_path / "run")[2:]] + ["--suites", suites]
    assert main(line) == 0
    printed = capsys.readouterr()
    assert "no dispersion of one galaxy, bias " in printed.out
    assert "dispersion=-" in printed.err
    assert "dispersion" not in json.loads((tmp_path / "run" / "run.json").read_text())["best"]
    curves = scalars(tmp_path / "run")
    assert "bias/mean" in curves
    assert not [name for name in curves if name.startswith("dispersion/")]


def test_from_a_look_that_shows_nothing_nothing_is_learnt(map_store, tmp_path):
    """Its velocity scale is nil, and its mass a million times a million times too small."""
    path = tmp_path / "beams.yaml"
    path.write_text("{name: beams, psf_fwhm: {re: [.01, 30]}, gas: {mask_below_msun_kpc2: 2.0e+7}}")
    config = config_of(map_store, tracer="gas", instrument=str(path), width=4)
    prepared = prepare(config, torch.device("cpu"), loader.done_galaxies(map_store, SUITES))
    fitter = prepared.fitter
    maps = fitter.loader.next(0)[1][:4].clone()
    maps[1, 4] *= 1e-9
    gradients = []
    for other in (1, 2):  # with the profile of another view
        fitter._gradient_anew(maps, torch.tensor([0, other, 3, 4]), torch.arange(4))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in fitter.model.parameters()]))
    assert gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    # Nor does it count in validation, nor in the scales of what is learnt.
    galaxies = loader.galaxies_of(map_store, loader.done_galaxies(map_store, SUITES), "train")
    views, observed, places = loader.validation_views(galaxies, "gas", config.instrument_model, 1.0)
    assert len(views) == len(observed) == len(places) < len(fitter.loader.table)
    assert (observed[:, 7].sum((1, 2)) > 0).all()
    assert fitter.loader.table.log10_unit.min() > 4


def test_the_network_kept_is_the_best_one_however_sure_it_is_of_itself(map_store, monkeypatch):
    """Widths are calibrated later: a network whose posteriors are half as wide is as good, and one that is also better
    is kept, though its validation loss by its own widths is the worse one."""
    fitter = prepare(config_of(map_store, steps=8, round_steps=4, patience=0), torch.device("cpu")).fitter
    fitter.advance()
    latent, by_own, calibrated = ProfileDensity.latent, "loss/val", "loss/val_calibrated"

    def surer(self, features, profile, better_nats=0.0):
        """The density with latent numbers three times as large: the posterior, a third as wide, and better."""
        numbers, weight = latent(self, features, profile)
        return 3 * numbers, weight + numbers.shape[-1] * np.log(3) + better_nats

    first = fitter.end_round()
    monkeypatch.setattr(ProfileDensity, "latent", surer)
    alike = fitter._validate()
    assert alike[calibrated] == pytest.approx(first[calibrated], abs=1e-4)
    assert alike[by_own] > first[by_own] + 1
    monkeypatch.setattr(ProfileDensity, "latent", latent)
    fitter.advance()
    monkeypatch.setattr(ProfileDensity, "latent", partialmethod(surer, better_nats=5.0))
    second = fitter.end_round()
    assert second[by_own] > first[by_own]
    assert (fitter.best["step"], fitter.stale) == (fitter.step, 0)
    for patience, ends in ((0, False), (1, True)):  # 0: to the end of the schedule, however long nothing improves
        fitter.config, fitter.step, fitter.stale = replace(fitter.config, patience=patience, steps=100), 8, 5
        assert fitter.finished() is ends


def test_what_is_kept_beside_weights_is_of_these_weights(map_store, two_runs, finished):
    """A new network in the place of an old one: neither its calibration nor its training features are taken over."""
    for name in ("run.json", "model.pt"):
        shutil.copy(two_runs / "1" / name, finished / name)
    with pytest.raises(RunError, match=r"calibration\.json is of other weights"):
        train.load(finished)
    shutil.copy(two_runs / "1" / "calibration.json", finished)
    with pytest.raises(RunError, match=r"ood\.pt is of other weights"):
        train.load(finished)
    fit(config_of(map_store, steps=4, seed=1), finished, quiet=True)
    for name in ("calibration.json", "ood.pt"):
        assert (finished / name).read_bytes() == (two_runs / "1" / name).read_bytes()
    train.load(finished)


@pytest.mark.parametrize("name", ["calibration.json", "ood.pt"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_what_is_lost_beside_weights_is_made_again(map_store, two_runs, finished, name, content):
    (finished / name).unlink()
    if content is not None:
        (finished / name).write_bytes(content)
    fit(config_of(map_store, steps=4), finished, quiet=True)
    assert (finished / name).read_bytes() == (two_runs / "0" / name).read_bytes()


def test_a_run_from_before_a_setting_that_changes_no_result_goes_on(map_store, finished):
    content = json.loads((finished / "run.json").read_text())
    assert content["fit"].pop("cuda_graph") is True
    (finished / "run.json").write_text(json.dumps(content))
    assert fit(config_of(map_store, steps=4), finished, quiet=True) == content
    del content["fit"]["width"]
    (finished / "run.json").write_text(json.dumps(content))
    assert_refused(config_of(map_store, steps=4), finished, "another version, which differs in the settings width")


def test_a_run_json_with_keys_too_few_or_too_many_is_refused_in_a_sentence(map_store, finished):
    """Whoever reads it says so, and nobody ends in another error; what nobody needs may be missing."""
    content = json.loads((finished / "run.json").read_text())
    changed = [content | {"fit": content["fit"] | {"colour": 1}}, content | {"model": content["model"] | {"colour": 1}}]
    for section in (content, content["fit"], content["model"]):
        for key in section:
            for value in ({}, {key: None}, {key: "?"}):
                altered = {name: section[name] for name in section if name != key} | value
                name = next((name for name in ("fit", "model") if section is content[name]), None)
                changed.append(content | {name: altered} if name else altered)
    refused: dict[str, list[str]] = {"load": [], "fit": []}
    for altered in changed:
        (finished / "run.json").write_text(json.dumps(altered))
        for word, use in {
            "load": lambda: train.load(finished).answers(),
            "fit": lambda: fit(config_of(map_store, steps=4), finished, quiet=True),
        }.items():
            try:
                use()
            except RunError as error:
                refused[word].append(str(error))
        assert len(states(finished)) == 1
    # Of every setting that `fit` compares there are three changes, of which those that are free may differ.
    assert not any("\n" in text for texts in refused.values() for text in texts)
    assert len(refused["fit"]) > 3 * (len(content["fit"]) - 5 + len(content["model"]))
    assert len(refused["load"]) > 3 * (7 + len(content["model"]))


def test_damaged_weights_are_noticed(map_store, two_runs, finished):
    weights = read_tensors(finished / "model.pt")
    name = next(iter(weights))
    damaged = weights | {name: weights[name] + 1e-7}
    for spoil in (
        lambda: shutil.copy(two_runs / "1" / "model.pt", finished),
        lambda: write_tensors(finished / "model.pt", damaged),
        lambda: (finished / "model.pt").write_bytes(b""),
        (finished / "model.pt").unlink,
    ):
        spoil()
        for use in (lambda: fit(config_of(map_store, steps=4), finished, quiet=True), lambda: train.load(finished)):
            with pytest.raises(RunError, match=r"model\.pt"):
                use()


def test_no_folder_can_be_synced_and_a_fit_ends(map_store, tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse)
    assert fit(config_of(map_store, steps=4), tmp_path / "run", quiet=True)["finished"]


# ---- the batch that suits a machine


def test_a_batch_that_is_chosen_stays_the_runs_own(map_store, tmp_path, capsys):
    chosen, given = tmp_path / "chosen", tmp_path / "given"
    content = fit(config_of(map_store, batch=0, steps=4), chosen, quiet=True)
    assert (content["fit"]["batch"], content["fit"]["learning_rate"]) == (64, 1.5e-3)
    fit(config_of(map_store, batch=64, steps=4), given, quiet=True)
    assert same(weights_of(chosen), weights_of(given))
    # What was begun with another batch goes on with it, and with its rate.
    larger = FitConfig.with_batch(config_of(map_store, steps=4), 16)
    assert larger.learning_rate == pytest.approx(0.75e-3)
    begun = tmp_path / "begun"
    fit(larger, begun, quiet=True)
    assert fit(config_of(map_store, batch=0, steps=4), begun, quiet=True)["fit"]["batch"] == 16
    assert_refused(config_of(map_store, batch=0, learning_rate=1e-3, steps=4), begun, "settings: learning_rate")
    with pytest.raises(SystemExit):
        main(["fit", "--store", str(map_store), "--tracer", "gas", "--out", str(begun), "--batch", "0"])
    assert "batch must be at least 1, or auto, not '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", "--store", str(map_store), "--tracer", "gas", "--out", str(begun), "--batch", "all"])
    assert "batch must be at least 1, or auto, not 'all'" in capsys.readouterr().err


@pytest.mark.parametrize(("begun", "later"), [("member-1", "member-0"), (".", "without-quiet")])
def test_an_ensemble_has_the_batch_of_its_first_member_on_any_machine(map_store, runs, tmp_path, begun, later):
    """One whose members had batches of their own could not be used. Fits without a suite are of the same recipe."""
    config = config_of(map_store, batch=0)
    settled = with_batch_for(config, tmp_path / begun, 2, "cuda")
    assert settled.batch == 512
    content = read_config(runs[0])
    content["fit"]["batch"] = settled.batch
    for folder in (begun, later):  # in which another job is about to begin
        (tmp_path / folder).mkdir(exist_ok=True)
    write_json(tmp_path / begun / "run.json", content)
    assert with_batch_for(config, tmp_path / later, 1, "cpu") == settled
    assert with_batch_for(config, tmp_path / "another", 1, "cpu").batch == 64


@pytest.mark.parametrize(("processes", "device_type", "views"), [(1, "cuda", 256), (8, "cuda", 2048), (3, "cpu", 66)])
def test_a_batch_is_chosen_for_the_gpus_there_are(map_store, tmp_path, processes, device_type, views):
    settled = with_batch_for(config_of(map_store, batch=0), tmp_path / "run", processes, device_type)
    assert settled.batch == views
    assert settled.learning_rate == pytest.approx(1.5e-3 * (views / 64) ** 0.5)
