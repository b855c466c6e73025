"""dvfs mounts any version of a dataset as a directory; `dvfs.store` holds versions, `dvfs.fs` mounts them."""

__version__ = "0.1.0"
