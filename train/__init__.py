"""Stage two: a map store in, a probabilistic network that infers the mass profile out."""
