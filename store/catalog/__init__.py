"""The catalog: the tree of a version as an ordered map in content-addressed pages (docs/format.md)."""
