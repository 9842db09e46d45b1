"""Kinds of syncs: images, files, backups, artifacts and tokens, each in a package of its own."""
