"""What both systems share at inference: sessions, the decode loop, batching, results, buckets, placement."""
