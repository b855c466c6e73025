"""The commands of `dvfs`, a module each: parse, call, print."""
