"""The command `detect`: its arguments, its inputs, its run and its outputs."""
