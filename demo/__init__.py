"""The sample of `make run`: two registries on this machine, and a sync from the first to the second."""
