"""One file a schema version; its revision is the version in four digits."""
