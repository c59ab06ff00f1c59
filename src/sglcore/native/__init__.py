"""SGLang's own dialect, whatever it comes through (HTTP, a script): fields in, GenerateRequests; outputs, bodies out."""
