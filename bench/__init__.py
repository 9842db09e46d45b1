"""Comparisons with other tools, side by side in one run: ``python -m bench [NAME]``; docs/benchmarks.md explains them."""
