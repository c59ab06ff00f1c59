"""The plugins under outside/ are distributions of their own: their tests run where they are installed, not here."""

collect_ignore = ["outside"]
