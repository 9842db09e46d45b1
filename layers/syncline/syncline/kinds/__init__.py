"""Kinds: what is particular to images, and later to files, backups, artifacts and tokens."""
