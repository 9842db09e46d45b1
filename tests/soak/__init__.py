"""The soak test: all five kinds on one engine and real servers, while functions, engine and servers are killed."""
