"""The reference plugins. They enter through the same entry points as anyone's."""
