"""A package, so that its files may be called like the files of other test folders."""
