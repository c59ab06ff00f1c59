"""KV memory: numbers in numpy (pages, rows, radix tree, ledger), bytes in `pool`."""
