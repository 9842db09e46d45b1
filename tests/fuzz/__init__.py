"""Fuzzing of every parser of outside bytes: targets, their limits, and a small corpus for each."""
