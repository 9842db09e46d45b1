"""What `make run` shows: two registries on this machine, the first with images, and a sync that keeps the second true."""
