"""The benchmark: `python -m bench` measures dvfs against a native directory, single objects in S3, other file systems.

Not part of the package; nothing in dvfs imports it. Method and meaning of each row: docs/BENCHMARKS.md.
"""
