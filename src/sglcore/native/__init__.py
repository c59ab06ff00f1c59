"""SGLang's own dialect, whatever it comes through (HTTP, a script): fields to requests, outputs to bodies."""
