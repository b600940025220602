"""What is asked of a language model behind an endpoint, what came back, and who asks."""

from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.files.hashing import sha256

T = TypeVar("T")
Role = Literal["user", "assistant"]


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


class Request(NamedTuple):
    """One question. Equal requests have one answer, which is kept."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    """Of the answer."""
    purpose: str
    """For counts and bars: explain, detection, ...; no part of the identity."""
    seed: int = 0

    def body(self) -> dict[str, Json]:
        """The request as `/v1/chat/completions` takes it."""
        return {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            "seed": self.seed,
        }

    def key(self) -> str:
        """sha256 (hex) of what is sent, in its one spelling: the name of its answer."""
        return sha256(canonical_json(self.body()))


class UnreadableError(ValueError):
    """An answer that does not hold what was asked for; the message says what is missing, and is sent back once."""


class Answered(NamedTuple, Generic[T]):
    """What came of a request."""

    value: T | None
    """As the parser read it; None: failed."""
    failure: str | None
    """Why, in a word for counts: `unreadable`, `refused`, `timeout`, `server`, `cut`, `budget`; None: answered."""

    @property
    def is_unasked(self) -> bool:
        """Whether it was not asked, because the budget was spent."""
        return self.failure == "budget"


class Asks(Protocol):
    """Something that gets requests answered: an endpoint, or a dry run that counts them."""

    def ask(self, requests: Sequence[Request], parse: Callable[[str], T], stand_in: T) -> list[Answered[T]]:
        """The answers in the order of the requests; those that are kept are not asked for again.

        parse: raises UnreadableError for an answer that is not what was asked for: one repair request follows, then the
            answer counts as failed. It gets the text without what stands in <think>...</think>.
        stand_in: what a dry run takes for every answer.
        Raises: EndpointError for what no repetition mends (400, 401, 403, 404), before anything else is sent.
        """
        ...
