"""Many processes and machines: shards of a run and their merging, workers, and Ray.

Nothing here knows what is computed. What decides an image's results is the same in all of them, so
that they change where a run is computed and how long it takes, and not a byte of what it finds.
"""
