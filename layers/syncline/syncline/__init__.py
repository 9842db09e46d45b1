"""Syncline keeps copies true: it notices what differs, moves it, proves that it arrived, and says so."""

__version__ = "0.1.0"
