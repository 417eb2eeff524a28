"""The project's own ASGI application, `http.app` of langgraph.json: a process of its own, and what passes requests on."""
