"""Archives of images as streams: zip by ranges, gzip and zstd by their first bytes, tar, and what `docker save` writes."""
