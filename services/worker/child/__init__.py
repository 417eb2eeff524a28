"""The graph child: runs the user's graphs in a process that holds none of our packages.

Started by file path (`__main__.py`). It imports the standard library and what LangGraph brings with it, and
talks over a socket in frames (`contracts/frames.py` has their forms).
"""
