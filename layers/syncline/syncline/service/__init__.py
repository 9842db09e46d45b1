"""Tokens as a service: the probe's API, the scrape and the canaries, on Lambda and in a container alike."""
