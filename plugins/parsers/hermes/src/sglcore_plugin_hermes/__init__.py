"""Tool calls as JSON between <tool_call> and </tool_call>."""
