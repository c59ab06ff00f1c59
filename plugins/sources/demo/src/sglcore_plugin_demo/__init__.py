"""The model called `demo`: a small chat model that pip installs."""
