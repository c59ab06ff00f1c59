"""The page at /: a chat playground and a live view of the engine, as plain files without a build step."""
