"""One protocol for everybody who speaks to a chat model: judges, critics, agents. Below training and the engine."""

from hanok.chat.model import GREEDY, ChatModel, Message, Reply, Sampling
from hanok.chat.scripted import ScriptedChat
from hanok.chat.url import UrlChat

__all__ = ["GREEDY", "ChatModel", "Message", "Reply", "Sampling", "ScriptedChat", "UrlChat"]
