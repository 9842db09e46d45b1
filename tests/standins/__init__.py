"""Real and stand-in servers to work against: for tests, benchmarks and `make run`. All listen on loopback only."""
