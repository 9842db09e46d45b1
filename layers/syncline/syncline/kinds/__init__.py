"""The kinds of syncs: `table` describes them, `kind` is their contract, and each has a package with all that is particular to it."""
