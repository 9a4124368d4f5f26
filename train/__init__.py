"""Stage two: a map store in, a probabilistic network that infers the mass profile out."""

from kinmass.train.run.posterior import Inference, Posterior, load

__all__ = ["Inference", "Posterior", "load"]
