"""The control tokens of a Hanok tokeniser, in id order. Only the chat template writes them, never content."""

from __future__ import annotations

END_OF_TEXT = "<|endoftext|>"  # stands before and after every plain text: BOS and EOS, id 0
PAD = "<|pad|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, TOOL_RESPONSE_END = "<tool_response>", "</tool_response>"
THINK, THINK_END = "<think>", "</think>"

CONTROL_TOKENS = (
    END_OF_TEXT,
    PAD,
    IM_START,
    IM_END,
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_RESPONSE,
    TOOL_RESPONSE_END,
    THINK,
    THINK_END,
)
