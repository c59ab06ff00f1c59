"""Benchmarks as users run them: what `sglcore bench` measures, and how it is written down.

serving: load on a server over HTTP. offline: the throughput of an engine in this process. one_batch: the latency of one
static batch. startup: from the start of a process to its first token. step: what a step costs the host.
"""
