"""What tests of event streaming send and ask for."""

from typing import Any

Event = dict[str, Any]
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello", "id": "h-1"}]}
EVERYTHING = [
    "values",
    "updates",
    "messages",
    "tools",
    "lifecycle",
    "input",
    "checkpoints",
    "tasks",
    "custom",
]
