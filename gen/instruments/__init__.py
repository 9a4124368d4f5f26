"""Instruments: noise models that turn stored noiseless moments into what would be observed.

`model` describes one, `builtin` has those that come with the project, `looks` draws what an instrument leaves open,
`observe` applies it; `thinning`, `optics` and `footprint` are its parts.
"""
