"""The race: dvfs and its rivals at the same work, on the same S3 server. Method and rows: docs/RACE.md."""
