"""TOML configurations and class tables, read with `importlib.resources`."""
