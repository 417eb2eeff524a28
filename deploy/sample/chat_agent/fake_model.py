"""A chat model that needs no network: it streams word by word, and calls a tool when asked about the weather."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool


class FakeChatModel(BaseChatModel):
    """Answers by rule, in the manner of a real model: in pieces, with tool calls, sync and async."""

    pause_s: float = 0.02  # between two words

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in pieces(messages, kwargs.get("tools") or []):
            time.sleep(self.pause_s)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in pieces(messages, kwargs.get("tools") or []):
            await asyncio.sleep(self.pause_s)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def pieces(messages: list[BaseMessage], tools: list[dict[str, Any]]) -> Iterator[ChatGenerationChunk]:
    """The answer, piece by piece: one tool call, or words."""
    message_id = f"fake-{uuid4()}"
    if call := wanted_call(messages[-1], tools):
        name, arguments = call
        part = tool_call_chunk(name=name, args=json.dumps(arguments), id=f"call-{uuid4()}", index=0)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", id=message_id, tool_call_chunks=[part]))
        return
    for word in re.findall(r"\S+\s*", answer(messages[-1])):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=message_id))


def wanted_call(last: BaseMessage, tools: list[dict[str, Any]]) -> tuple[str, dict[str, str]] | None:
    """Which tool the message asks for, and with what."""
    asked = re.search(r"weather in (\w+)", str(last.content), re.IGNORECASE)
    known = {tool["function"]["name"] for tool in tools}
    if isinstance(last, ToolMessage) or asked is None or "weather" not in known:
        return None
    return "weather", {"city": asked.group(1)}


def answer(last: BaseMessage) -> str:
    """What the model says when it needs no tool."""
    if isinstance(last, ToolMessage):
        return f"I looked it up: {last.content}"
    return f"You said: {last.content}"
