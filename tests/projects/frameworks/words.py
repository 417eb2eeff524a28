"""A chat model that needs no network: what it says is a function of what was said."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

Say = Callable[[list[BaseMessage]], str | dict[str, Any]]
"""The words of the answer, or the call of a tool: `{"name": ..., "args": ...}`."""


class Words(BaseChatModel):
    """Streams what it says word by word."""

    say: Say

    @property
    def _llm_type(self) -> str:
        return "words"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        return self

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said = self.say(messages)
        if isinstance(said, dict):
            call = {**said, "id": f"call-{said['name']}-{len(messages)}", "type": "tool_call"}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=[call]))
            return
        for word in said.split(" "):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
            if run_manager:
                run_manager.on_llm_new_token(f"{word} ", chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        said = [chunk.message for chunk in self._stream(messages, stop, run_manager)]
        message = AIMessage(
            content="".join(str(part.content) for part in said),
            tool_calls=[call for part in said for call in getattr(part, "tool_calls", [])],
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def calls(*steps: dict[str, Any]) -> Words:
    """Calls these tools one after the other, then tells what the last one gave; a greeting it only returns."""

    def say(messages: list[BaseMessage]) -> str | dict[str, Any]:
        asked = max(n for n, message in enumerate(messages) if isinstance(message, HumanMessage))
        if messages[asked].content == "hi":
            return "hi to you"
        told = [message for message in messages[asked:] if isinstance(message, ToolMessage)]
        mine = [message for message in told if message.name in {step["name"] for step in steps}]
        return steps[len(mine)] if len(mine) < len(steps) else f"done: {mine[-1].content}"

    return Words(say=say)
