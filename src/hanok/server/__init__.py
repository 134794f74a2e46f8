"""Step 7: the HTTP API and the chat page."""
