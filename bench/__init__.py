"""Benchmarks against other tools, in turns within one run: ``python -m bench [NAME]``.

docs/explanation/benchmarks.md explains the measurements.
"""
