"""The writable overlay: edits on top of a version, kept in a folder, committed as a child version. Knows no FUSE."""
