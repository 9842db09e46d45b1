"""Fuzzing of every parser of bytes from outside: targets, their limits, and the corpus that is kept of each."""
