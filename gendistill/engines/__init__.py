"""What carries the work of a run: this process, or many on a cluster (docs/scaling.md).

``stages`` says what is done to a shard and knows no engine; a *runner* applies stages to shards: ``LocalRunner`` here,
``ray.RayRunner`` by Ray Data. ``sharded`` is the part of a run that knows of shards.
"""
