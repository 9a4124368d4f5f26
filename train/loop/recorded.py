"""Work of a GPU that is recorded once, as a CUDA graph, and then started by a single call.

A step of these small networks is some 1,300 kernels, each of which takes less time than Python needs to start it:
without a recording the host sets the pace, whatever the batch.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

#: Calls that are made as usual before one is recorded: libraries choose their kernels, and DDP its buckets, in these.
CALLS_BEFORE = 11
#: Largest difference of a recorded call's results from those of a usual one, over their size.
TOLERANCE = 1e-3


class NotAsUsual(ValueError):
    """What a GPU recorded is not what it does without a recording; the message says what to do."""


class Recorded:
    """A function of tensors whose work is recorded after a few usual calls, and replayed from then on.

    function: returns tensors, and leaves gradients in the parameters. Whatever it does depends on the values of its
    arguments alone, which lie on the GPU and keep their shapes; it never waits for the GPU. Returned tensors and
    gradients are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., tuple[torch.Tensor, ...]], parameters: Sequence[nn.Parameter]):
        self._function, self._parameters = function, list(parameters)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: tuple[torch.Tensor, ...] = ()
        self._results: tuple[torch.Tensor, ...] = ()
        self._stream = torch.cuda.Stream()

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the function. Raises NotAsUsual where its recording does something else than the function."""
        self._calls += 1
        if self._calls <= CALLS_BEFORE:
            return self._call_aside(arguments)
        graph = self._graph or self._record(arguments)
        for kept, argument in zip(self._arguments, arguments, strict=True):
            kept.copy_(argument)
        graph.replay()
        return self._results

    def _call_aside(self, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Call the function on another stream than the usual one, as what is recorded later has to be."""
        self._forget_gradients()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self._function(*arguments)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _record(self, arguments: tuple[torch.Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._arguments = tuple(argument.clone() for argument in arguments)
        usual = [x.detach().clone() for x in self._call_aside(self._arguments)] + [self._gradient()]
        self._forget_gradients()
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that watches over nccl, may do what a recording forbids.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._results = self._function(*self._arguments)
        graph.replay()
        for result, wanted in zip((*self._results, self._gradient()), usual, strict=True):
            result, wanted = result.double(), wanted.double()
            difference = float((result - wanted).norm() / wanted.norm().clamp(min=1e-30))
            if not difference <= TOLERANCE and torch.isfinite(wanted).all():
                raise NotAsUsual(
                    f"a recorded step differs from a usual one by {difference:.1g} of its size; "
                    "train with --no-cuda-graph, and report it"
                )
        self._graph = graph
        return graph

    def _gradient(self) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None])

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
