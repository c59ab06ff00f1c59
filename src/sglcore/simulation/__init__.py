"""The real scheduler and ledger in virtual time, against a cost model instead of a device."""
