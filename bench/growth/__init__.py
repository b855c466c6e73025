"""Growth: versions of ever more entries, and ever longer lineages. Method and figures: docs/SCALE.md."""
