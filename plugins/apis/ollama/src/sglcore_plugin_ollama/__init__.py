"""Ollama's HTTP dialect: /api/chat, /api/generate and what its clients ask beside them."""
