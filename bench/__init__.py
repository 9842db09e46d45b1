"""Benchmarks against other tools, side by side in one run: ``python -m bench [NAME]``; docs/explanation/benchmarks.md explains them."""
