"""What the kernel offers, and checking calls against it before they are sent."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import schema
from .errors import InvalidParams, NotFound, Refused, WrongShape


@dataclass(frozen=True)
class Method:
    """A method, as ``kernel.introspect`` describes it."""

    name: str
    #: One sentence.
    summary: str
    #: What a caller needs, in the kernel's words.
    permission: Any
    #: JSON Schema of the parameters.
    params: Mapping[str, Any]
    #: JSON Schema of the result.
    result: Mapping[str, Any]

    def check(self, params: Mapping[str, Any]) -> None:
        """Raises :class:`kairo.InvalidParams` for the first parameter that the schema refuses."""
        known = list(self.params.get("properties", {}))
        for key in params:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean `{near[0]}`?" if near else f"it has: {', '.join(known)}"
                text = f"{self.name} has no parameter `{key}`; {hint}"
                raise InvalidParams(text, {"reason": "unknown_key", "key": key}, method=self.name)
        wrong = schema.first_problem(params, self.params)
        if wrong is not None:
            raise InvalidParams(f"{self.name}: {wrong}", method=self.name)


def table(introspection: Any) -> Dict[str, Method]:
    """The methods of an introspection, by name. Raises :class:`kairo.WrongShape`."""
    try:
        return {
            row["name"]: Method(
                row["name"], row["summary"], row.get("permission"), row["params"], row["result"]
            )
            for row in introspection["methods"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise WrongShape(f"kernel.introspect gave another shape: {error!r}") from error


class Tables:
    """The kernel's tables as a client keeps them over its connections.

    After a reconnection the digest is sent, and the kernel answers in a few bytes that the copy is
    still good; only the methods that other processes serve come anew.
    """

    def __init__(self) -> None:
        self._digest: Optional[str] = None
        self._own: List[Any] = []
        self._errors: List[Any] = []

    def question(self) -> Dict[str, Any]:
        """The parameters of ``kernel.introspect``."""
        return {} if self._digest is None else {"digest": self._digest}

    def take(self, answer: Any) -> Dict[str, Method]:
        """The methods by name. Raises :class:`kairo.WrongShape`."""
        methods = table(answer)
        rows = answer["methods"]
        if answer.get("unchanged") is True:
            return {**table({"methods": self._own}), **methods}
        # A kernel without a digest of the served ones does not know the parameter either.
        self._digest = answer.get("digest") if "served_digest" in answer else None
        self._own = [row for row in rows if row.get("served_by") is None]
        self._errors = answer.get("errors", [])
        return methods

    def remedy(self, error: Refused) -> str:
        """What to do about a refusal; empty where the kernel does not say."""
        for row in self._errors:
            if not isinstance(row, dict) or row.get("code") != error.code:
                continue
            for reason in row.get("reasons", []):
                if reason.get("reason") == error.reason:
                    return str(reason.get("remedy", ""))
        return ""


class Namespace:
    """The methods below a name, as attributes: ``client.device`` and then ``.list()``.

    With :class:`kairo.aio.Client` a call gives an awaitable. ``call_options`` of a call, as in
    ``client.rt.status(call_options={"deadline_s": 1})``, go to ``call()``.
    """

    def __init__(
        self, prefix: str, methods: Callable[[], Any], call: Callable[..., Any]
    ) -> None:
        self._prefix = prefix
        self._methods = methods
        self._call = call

    def __getattr__(self, name: str) -> "Namespace":
        if name.startswith("_"):
            raise AttributeError(name)
        return Namespace(f"{self._prefix}.{name}", self._methods, self._call)

    def __call__(
        self, call_options: Optional[Mapping[str, Any]] = None, **params: Any
    ) -> Any:
        known = self._methods()
        if not isinstance(known, dict):
            return self._later(known, params, call_options or {})
        self._check(known, params)
        return self._call(self._prefix, params, **(call_options or {}))

    async def _later(
        self, known: Any, params: Dict[str, Any], options: Mapping[str, Any]
    ) -> Any:
        self._check(await known, params)
        return await self._call(self._prefix, params, **options)

    def _check(self, known: Mapping[str, Method], params: Mapping[str, Any]) -> None:
        method = known.get(self._prefix)
        if method is None:
            near: List[str] = difflib.get_close_matches(self._prefix, list(known), 1)
            hint = f"did you mean {near[0]}?" if near else "client.methods() lists them"
            text = f"there is no method {self._prefix!r}; {hint}"
            raise NotFound(text, {"reason": "unknown_method"}, method=self._prefix)
        method.check(params)

    def __repr__(self) -> str:
        return f"<kairo method or namespace {self._prefix}>"
