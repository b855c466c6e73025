"""The view of a version as a tree, and the FUSE daemon over it."""
