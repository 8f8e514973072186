"""Files that are elsewhere, read by ranges of bytes: objects in buckets, on servers, of fsspec."""
