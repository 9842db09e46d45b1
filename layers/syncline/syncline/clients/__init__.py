"""Clients for outside systems, one package each, on top of `http`. A client knows nothing of syncs, queues or tables."""
