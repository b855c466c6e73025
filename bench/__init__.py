"""The benchmark: `python -m bench` measures dvfs against a native directory and against single objects in S3.

Not part of the package; nothing in dvfs imports it. Method and meaning of each row: docs/BENCHMARKS.md.
"""
