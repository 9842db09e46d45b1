"""One room for each outside system, and HTTP under them. A client knows nothing of syncs, queues or tables."""
