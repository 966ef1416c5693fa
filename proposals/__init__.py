"""Region proposals: box geometry and the methods that suggest where objects may be. Usable alone."""
