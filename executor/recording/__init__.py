"""Recording of calls: lengths and hashes as they pass the gateway, and the trace that follows from them."""
