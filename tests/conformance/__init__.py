"""The S3 client against servers of several makers: `make conformance`."""
