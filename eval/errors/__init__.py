"""Error analysis: the kind of each false positive and of each missed object, and the AP that it costs."""
