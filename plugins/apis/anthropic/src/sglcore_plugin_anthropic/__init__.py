"""Anthropic's HTTP dialect: /v1/messages and its token counter."""
