"""Sessions: a random id in a signed cookie, and ownership of uploads, clips and questions."""

import dataclasses
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

COOKIE = "tempo_session"
COOKIE_SECONDS = 30 * 24 * 3600
MOST_ENDED = 10_000  # sessions that are remembered to have signed out
_VALUE = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{64})")


@dataclasses.dataclass(frozen=True)
class Identity:
    """The origin of a request. session: its id; fresh: whether it was created for this request.

    client: whom the queue is fair to. address: where the request comes from.
    """

    session: str
    fresh: bool
    address: str

    @property
    def client(self) -> str:
        return self.address if self.fresh else self.session


@dataclasses.dataclass
class Owner:
    """Whose something is. Made by a request without a session, it is also for others without one that name
    it, until its session comes back: not every client keeps cookies, and the name is secret.
    """

    session: str
    claimed: bool

    @classmethod
    def of(cls, who: Identity) -> "Owner":
        return cls(who.session, not who.fresh)

    def admits(self, who: Identity) -> bool:
        """Whether `who` may use it, having named its id."""
        if self.session == who.session:
            self.claimed = True
            return True
        return who.fresh and not self.claimed


class Sessions:
    """Issues and reads the cookies. With a token, only who has shown it is given one."""

    def __init__(self, token: str | None):
        self._token = token
        secret = secrets.token_bytes(32) if token is None else f"tempo_jax session\0{token}".encode()
        self._key = hashlib.sha256(secret).digest()
        self._ended: dict[str, None] = {}  # sessions that have signed out, the latest last

    @property
    def token_required(self) -> bool:
        return self._token is not None

    def matches(self, token: str) -> bool:
        """Whether it is the server's token."""
        return self._token is not None and hmac.compare_digest(
            token.encode("utf-8", "replace"), self._token.encode()
        )

    def bearer(self, authorization: str) -> bool:
        """Whether an Authorization header has the server's token."""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.matches(token.strip())

    def read(self, header: str) -> str | None:
        """The session of a Cookie header; None where there is none of ours."""
        try:
            morsel = SimpleCookie(header).get(COOKIE)
        except CookieError:
            return None
        match = _VALUE.fullmatch(morsel.value) if morsel else None
        if match is None or not hmac.compare_digest(match[2], self._mac(match[1])):
            return None
        return None if match[1] in self._ended else match[1]

    def end(self, session: str) -> None:
        """Invalidates its cookie until the server restarts."""
        self._ended[session] = None
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def cookie(self, session: str, scope: Mapping) -> str:
        """The Set-Cookie header that gives a session."""
        return self._header(f"{session}.{self._mac(session)}", COOKIE_SECONDS, scope)

    def clearing(self, scope: Mapping) -> str:
        """The Set-Cookie header that takes it away."""
        return self._header("", 0, scope)

    def _mac(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()

    def _header(self, value: str, seconds: int, scope: Mapping) -> str:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return f"{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}"


def new_session() -> str:
    return secrets.token_hex(16)
