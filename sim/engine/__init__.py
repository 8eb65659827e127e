"""One engine: continuous batching, KV blocks, queue, step costs and the GPU it shares, in integer femtoseconds."""
