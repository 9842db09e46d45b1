"""Sync container images, files, backups, artifacts and tokens between systems, and verify every copy."""

__version__ = "0.1.0"
