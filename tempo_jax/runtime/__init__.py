"""What both systems share to answer a question: sessions, decoding, batching, results, buckets, placement."""
