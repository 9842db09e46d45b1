"""A soak: all five kinds on one engine, against real servers, while functions, engine and servers are killed."""
