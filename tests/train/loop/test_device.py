"""What a GPU asks of training: that no step waits for it, and that each process has one of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VARIED
from torch.overrides import TorchFunctionMode

from kinmass.gen.instruments import looks
from kinmass.train import distributed as ddp
from kinmass.train.__main__ import main
from kinmass.train.data import loader
from kinmass.train.launch.job import cause_of
from kinmass.train.launch.resources import LaunchError, on_this_machine, resources
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import small_batch_remark
from kinmass.train.loop.fitter import Fitter, in_bf16
from kinmass.train.loop.prepare import prepare

SUITES = ("bursty", "middle", "quiet")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def fitter_of(map_store: Path, device: torch.device, **options: object) -> Fitter:
    """The state of a fit that is about to take its first step."""
    small = {"width": 4, "steps": 12, "round_steps": 4, "batch": 8, "precision": "float32"}
    config = FitConfig(str(map_store), **({"tracer": "any", "suites": SUITES} | small | options))
    return prepare(config, device).fitter


class NoWaits(TorchFunctionMode):
    """Refuses what makes the host wait for a GPU: values that come to the host, and lists that go to the GPU."""

    TO_HOST = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            raise AssertionError("a tensor made of a list")
        if name in self.TO_HOST and isinstance(args[0], torch.Tensor):
            raise AssertionError(f"{name} brings a value to the host")
        if name in ("__getitem__", "__setitem__"):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, list | np.ndarray) for index in indices):
                raise AssertionError(f"indexed by the list {args[1]}")
            if any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices):
                raise AssertionError("indexed by a mask, of which the host has to count the elements")
        return func(*args, **(kwargs or {}))


SURVEY = {"instrument": "survey"}


@pytest.mark.parametrize("options", [VARIED, SURVEY, {"head": "mixture", "encoder": "residual", "inputs": "relative"}])
def test_nothing_in_a_step_makes_the_host_wait(map_store, options, monkeypatch):
    monkeypatch.setattr(looks, "BRANCHES_ON", "none")  # as on a GPU
    fitter = fitter_of(map_store, torch.device("cpu"), **options)
    fitter.advance()  # What is made once is made here.
    take_batch = fitter.loader.next
    batches = [take_batch(step) for step in range(1, 3)]
    fitter.loader.next = lambda step: batches[step - 1]  # The loader has to make a list of rows into a tensor.
    with NoWaits():
        fitter.advance()
        fitter.advance()
    assert fitter.step == 3


@on_a_gpu
@pytest.mark.parametrize(
    "options", [VARIED, SURVEY, {"precision": "auto"}, {"instrument": "kpc.yaml"}, {"tracer": "both"}]
)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_no_step_waits_for_the_gpu(map_store, tmp_path, monkeypatch, options, cuda_graph):
    monkeypatch.chdir(tmp_path)
    Path("kpc.yaml").write_text("name: kpc\npsf_fwhm: {kpc: 1.0}\n")
    fitter = fitter_of(map_store, torch.device("cuda"), **options, steps=100, round_steps=100, cuda_graph=cuda_graph)
    fitter.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fitter.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert fitter.step > 2


@on_a_gpu
@pytest.mark.parametrize("options", [VARIED, SURVEY, {"tracer": "both"}])
def test_a_recorded_step_is_a_usual_one(map_store, options):
    """Weights and losses of fits that differ in this alone stay together, long after the recording was made."""
    usual, recorded = (
        fitter_of(map_store, torch.device("cuda"), **options, steps=48, round_steps=48, cuda_graph=cuda_graph)
        for cuda_graph in (False, True)
    )
    for _ in range(3):
        usual.advance()
        recorded.advance()
        torch.testing.assert_close(recorded._round_sums, usual._round_sums, rtol=1e-3, atol=1e-3)
    assert recorded.step == 48
    for name, weight in usual.model.state_dict().items():
        torch.testing.assert_close(recorded.model.state_dict()[name], weight, rtol=0, atol=1e-3, msg=name)


@on_a_gpu
def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(map_store):
    """Adam's moments belong to the same weights there, whatever the layout of these in memory."""
    on_gpu, on_cpu = (fitter_of(map_store, torch.device(name)) for name in ("cuda", "cpu"))
    for _ in range(4):
        on_gpu.advance()
    on_cpu.load_state(on_gpu.state())
    moments = zip(on_gpu.optimiser.state.values(), on_cpu.optimiser.state.values(), strict=True)
    for gpu_state, cpu_state in moments:
        assert gpu_state["exp_avg"].stride() == cpu_state["exp_avg"].stride()
    on_gpu.advance()
    on_cpu.advance()
    for name, weight in on_cpu.model.state_dict().items():
        torch.testing.assert_close(on_gpu.model.state_dict()[name].cpu(), weight, rtol=0, atol=1e-4, msg=name)


def test_bfloat16_only_where_a_gpu_has_it():
    v100, t4, a100, h100 = (7, 0), (7, 5), (8, 0), (9, 0)
    assert [in_bf16("auto", gpu) for gpu in (None, v100, t4, a100, h100)] == [False, False, False, True, True]
    assert all(in_bf16("bf16", gpu) for gpu in (None, v100, a100))
    assert not any(in_bf16(precision, a100) for precision in ("float32", "float64"))


def peak_bytes_of(call) -> int:
    """Most memory that a call takes beside what is taken already, by the kernel's own account."""

    def status(key: str) -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return 1024 * int(line.split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    result = call()
    peak = status("VmHWM") - before
    assert result is not None
    return peak


def test_maps_are_copied_without_being_held_twice():
    maps, rows = torch.rand(60_000, 8, 16, 16), torch.arange(0, 60_000, 2)
    assert torch.equal(loader.copy_of_rows(maps[:3000], rows[:1500], torch.device("cpu"), 512), maps[:3000:2])
    wanted_bytes = len(rows) * 4 * maps[0].numel()
    peak = peak_bytes_of(lambda: loader.copy_of_rows(maps, rows, torch.device("cpu")))
    assert peak < 1.3 * wanted_bytes


def test_too_few_views_for_a_gpu_are_warned_of_in_a_sentence():
    warning = small_batch_remark(64, 8, "cuda")
    assert re.match(r"warning: 8 views of each batch for a GPU take about as long as 256 would; ", warning)
    assert small_batch_remark(256, 1, "cuda") == small_batch_remark(2048, 8, "cuda") == ""
    assert small_batch_remark(64, 8, "cpu") == ""


def test_processes_that_share_a_gpu_are_refused():
    ddp.refuse_shared_gpus([("n1", "GPU-a"), ("n1", "GPU-b"), ("n2", "GPU-a")])
    with pytest.raises(ValueError, match="2 processes share one GPU of n2: start no more processes on a node than"):
        ddp.refuse_shared_gpus([("n1", "GPU-a"), ("n2", "GPU-b"), ("n2", "GPU-b")])


def test_jobs_of_this_machine_get_a_gpu_for_each_process():
    def gpus(n_gpus: int, n_jobs: int = 1, **options: object) -> int | None:
        return on_this_machine(resources("local", {}, **options), n_jobs, n_gpus).gpus

    assert gpus(0) == gpus(0, processes=4) == gpus(4, gpus=0, processes=8) == 0
    assert gpus(4) == gpus(4, n_jobs=9, at_once=4) == gpus(4, gpus=1) == 1
    assert gpus(4, processes=4) == gpus(4, gpus=4, n_jobs=9) == 4
    for options, words in (
        ({"n_gpus": 1, "processes": 2}, "2 processes would run at once and need a GPU each, but this machine has 1;"),
        ({"n_gpus": 2, "n_jobs": 9, "at_once": 2, "gpus": 2}, "4 processes would run at once"),
        ({"n_gpus": 0, "gpus": 1}, "this machine has 0"),
    ):
        with pytest.raises(LaunchError, match=words):
            gpus(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU cannot be hidden from a process that has seen it")
def test_the_compiler_is_refused_on_processors(map_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = ["--store", str(map_store), "--tracer", "gas", "--out", str(tmp_path / "run"), "--compile"]
    for command in (["fit"], ["launch", "--cluster", "local"], ["launch", "--cluster", "slurm", "--dry-run"]):
        assert main([*command, *options]) == 2
        messages = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
        assert len(messages) == 1
        assert "--compile is for GPUs alone" in messages[0]
    assert not (tmp_path / "run").exists()


# What torch 2.7 to 2.13 raise, shortened in their paths.
NCCL_ERRORS = {
    "NCCL error in: ProcessGroupNCCL.cpp:3690, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version "
    "2.27.3\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU "
    "detected : rank 1 and rank 0 both on CUDA device 1000": "Duplicate GPU detected : rank 1 and rank 0 both on CUDA",
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL "
    "version 2.27.3\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error"
    ".\nLast error:\nError: failed to extend /dev/shm/nccl-x to 33030532 bytes": "failed to extend /dev/shm/nccl-x",
}
OF_ANOTHER = (
    "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error, NCCL version 2.27.3"
    "\nncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "NCCL communicator was aborted on rank 1.",
    "[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:1234",
)


@pytest.mark.parametrize("text", NCCL_ERRORS)
def test_what_nccl_says_is_told(text):
    said = cause_of(RuntimeError(text))
    assert NCCL_ERRORS[text] in said
    assert "\n" not in said
    assert "out of memory" not in said


@pytest.mark.parametrize("text", OF_ANOTHER)
def test_an_error_that_follows_from_another_process_says_so(text):
    assert cause_of(RuntimeError(text)).startswith("another process of the job died, out of memory or killed? (Runtime")
