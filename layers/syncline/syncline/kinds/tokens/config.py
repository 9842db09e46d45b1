"""Configuration of the kind ``tokens``, with the checks between its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    Tag,
    WithJsonSchema,
)

from syncline.config.findings import Finding
from syncline.config.model import Model, ServerAddress
from syncline.config.sync import Sync
from syncline.config.values import Authority, Host, Name, SecretReference, Url

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,100}")
_COOKIE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LABEL_KEY: Final = r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_SELECTOR: Final = re.compile(
    rf"{_LABEL_KEY}(?:=|==|!=)[A-Za-z0-9._-]{{0,63}}(?:,{_LABEL_KEY}(?:=|==|!=)[A-Za-z0-9._-]{{0,63}})*"
)
_TARGET: Final = re.compile(r"/[!-~]{0,1000}")
_LEAST_INTERVALS: Final = 2
_LONGEST_SECONDS: Final = 3600
_LARGEST_QUORUM: Final = 10_000
_GRACE: Final = 0.5  # seconds from the end of the retries to the deadline
_LONGEST_ON_LAMBDA: Final = 25.0  # seconds; the function's timeout is 30


def _matching(pattern: re.Pattern[str], problem: str) -> AfterValidator:
    """Return a validator of texts that match a pattern."""

    def check(text: str) -> str:
        if pattern.fullmatch(text):
            return text
        raise ValueError(problem)

    return AfterValidator(check)


def _check_headers(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in ("host", "content-length", "transfer-encoding"):
            raise ValueError("has an invalid or reserved header name; use letters, digits and -, such as X-Api-Key")
    return value


def _check_port(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    if isinstance(value, str) and _DNS_LABEL.fullmatch(value):
        return value
    raise ValueError("is not a port; write a number from 1 to 65535, or the name of one of the service's ports")


def _check_seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST_SECONDS:
        return value
    raise ValueError(f"is not a time; write seconds as a number over 0, at most {_LONGEST_SECONDS}")


def _check_quorum(value: Any) -> int | Literal["all", "majority"]:
    if value in ("all", "majority"):
        return cast('Literal["all", "majority"]', value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_QUORUM:
        return value
    raise ValueError(f"is not a quorum; write all, majority, or a number from 1 to {_LARGEST_QUORUM}")


KubernetesName: TypeAlias = Annotated[
    str, _matching(_DNS_LABEL, "is not a Kubernetes name; use 1 to 63 of a-z 0-9 -, such as gateway")
]
Labels: TypeAlias = Annotated[
    str,
    _matching(_SELECTOR, "is not a label selector; write name=value, several with commas between, such as app=nginx"),
]
Path: TypeAlias = Annotated[
    str, _matching(_TARGET, "is not a path; begin it with / and percent-encode characters other than ASCII")
]
CookieName: TypeAlias = Annotated[
    str, _matching(_COOKIE_NAME, "is not a cookie's name; use letters, digits and _.-, such as auth_token")
]
# One validator for each, not a union, whose errors would be reported once for each member.
Port: TypeAlias = Annotated[
    int | str,
    PlainValidator(_check_port),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": f"^{_DNS_LABEL.pattern}$"},
            ]
        }
    ),
]
Seconds: TypeAlias = Annotated[
    float,
    PlainValidator(_check_seconds),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": _LONGEST_SECONDS}),
]
Quorum: TypeAlias = Annotated[
    int | Literal["all", "majority"],
    PlainValidator(_check_quorum),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": _LARGEST_QUORUM}, {"enum": ["all", "majority"]}]}
    ),
]


class KubeconfigLogin(Model):
    """A kubeconfig with tokens or keys in it; one that would run a program is refused."""

    kubeconfig: SecretReference = Field(
        description="A reference to the kubeconfig's text.", examples=["secret:syncline/gateway-kubeconfig"]
    )
    context: str | None = Field(None, description="The context to use. Defaults to the current one.", examples=["prod"])


class TokenLogin(Model):
    """A bearer token: a service account's, or what `oc whoami --show-token` prints on OpenShift."""

    token: SecretReference = Field(
        description="A reference to the token.", examples=["secret:syncline/gateway#cluster-token"]
    )


class EksLogin(Model):
    """The AWS identity of the functions, which needs an access entry in the EKS cluster."""

    eks: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[0-9A-Za-z][A-Za-z0-9_-]*$")] = Field(
        description="The name of the EKS cluster.", examples=["prod"]
    )
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")] | None = Field(
        None, description="Its region. Defaults to that of the functions.", examples=["eu-central-1"]
    )


_FORMS: Final = "write in-cluster, {kubeconfig: …}, {token: …} or {eks: NAME}"


def _login_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>"
    for name, model in (("kubeconfig", KubeconfigLogin), ("token", TokenLogin), ("eks", EksLogin)):
        if isinstance(value, model) or (isinstance(value, dict) and name in value):
            return f"<{name}>"
    return None


def _check_login_form(value: Any) -> Any:
    if isinstance(value, dict) and len({"kubeconfig", "token", "eks"} & value.keys()) > 1:
        raise ValueError(f"has more than one login method; {_FORMS}")
    if isinstance(value, str) and value != "in-cluster":
        raise ValueError(f"is not a login method; {_FORMS}")
    return value


Login: TypeAlias = Annotated[
    Annotated[Literal["in-cluster"], Tag("<word>")]
    | Annotated[KubeconfigLogin, Tag("<kubeconfig>")]
    | Annotated[TokenLogin, Tag("<token>")]
    | Annotated[EksLogin, Tag("<eks>")],
    Discriminator(_login_form, custom_error_type="auth_form", custom_error_message=f"is not a login method; {_FORMS}"),
    BeforeValidator(_check_login_form),
]


class InstancesSource(Model):
    """A source of instances: a service or pods of a Kubernetes cluster."""

    auth: Login = Field(
        "in-cluster",
        description="The login: `in-cluster` (the service account of the pod), a kubeconfig, a token, or the identity of the "
        "functions on EKS.",
    )
    api: Url | None = Field(
        None,
        description="The address of the cluster's API; needed with a token and on EKS.",
        examples=["https://api.prod.example:6443"],
    )
    ca: Authority | None = Field(
        None,
        description="The certificate authority of the API: `file:PATH` (read on apply), a reference, or the PEM text.",
        examples=["file:cluster-ca.pem"],
    )
    namespace: KubernetesName = Field(description="The namespace.", examples=["gateway"])
    service: KubernetesName | None = Field(
        None, description="The service whose EndpointSlices name the instances.", examples=["nginx"]
    )
    labels: Labels | None = Field(
        None, description="The labels of the pods, instead of a service.", examples=["app=nginx"]
    )
    port: Port | None = Field(
        None,
        description="The port of the instances: a number, or the name of one of the service's ports; needed with "
        "`labels`, and for a service with several ports.",
        examples=["https"],
    )

    def addresses(self) -> Iterator[ServerAddress]:
        if self.api is not None:
            yield ServerAddress(self.api, self.ca)


class Check(Model):
    """The request that checks a token at an instance: a GET with the token as a cookie; 200 is yes, 401 is not yet."""

    host: Host = Field(description="The `Host` header.", examples=["api.prod.example"])
    path: Path = Field("/check", description="A path that requires a valid token.", examples=["/check"])
    cookie: CookieName = Field("auth_token", description="The cookie that carries the token.", examples=["auth_token"])
    server_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = Field(
        None,
        description="The name in the instances' certificates. Defaults to that of `host`.",
        examples=["gateway.prod.example"],
    )
    ca: Authority | None = Field(
        None,
        description="The certificate authority of the instances: `file:PATH` (read on apply), a reference, or the PEM text. "
        "Defaults to the system's authorities.",
        examples=["file:gateway-ca.pem"],
    )
    plain_http: StrictBool = Field(
        False, description="Use HTTP without TLS, so that tokens can be read on the network."
    )


class Request(Model):
    """A request of a canary; `{key}` and `{value}` are replaced by the canary's key and value."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = Field(
        description="The method.", examples=["PUT"]
    )
    path: Path = Field(description="The path and the query.", examples=["/keys/{key}"])
    body: Annotated[str, Field(max_length=4096)] = Field("", description="The body.", examples=['{"{key}": "{value}"}'])


class ZoneSync(Model):
    """The API of nginx Plus at each instance, whose counters of zone_sync explain why instances do not agree."""

    port: Annotated[StrictInt, Field(ge=1, le=65535)] = Field(
        description="The port of the API at each instance.", examples=[8080]
    )
    path: Path = Field(
        "/api/9/stream/zone_sync", description="The path of the counters.", examples=["/api/9/stream/zone_sync"]
    )
    plain_http: StrictBool = Field(
        False, description="Use HTTP without TLS. With TLS, `ca` and `server_name` of `check` apply."
    )


class Canary(Model):
    """A key that is written through one instance and watched at the others."""

    write: Request = Field(description="The request that writes the key; any 2xx is success.")
    read: Request = Field(description="The request that reads the key: 200 if present, 401 or 404 if absent.")
    delete: Request = Field(description="The request that deletes the key; any 2xx is success.")
    headers: Annotated[dict[str, SecretReference], AfterValidator(_check_headers)] = Field(
        {}, description="Headers of the three requests, each a reference to its value."
    )
    long_value: Annotated[StrictInt, Field(ge=0, le=1048576)] = Field(
        0, description="The length in bytes of a value that should be too long for the store; 0 disables the check."
    )
    watch_deletes: StrictBool = Field(True, description="Also watch deletions.")


class TokensSync(Sync):
    """Check that every instance of a replicated gateway has a session token, and measure how long that takes."""

    kind: Literal["tokens"] = Field(description="The kind of the sync: `tokens`.", examples=["tokens"])
    sources: Annotated[dict[Name, InstancesSource], Field(min_length=1)] = Field(
        description="The sources of instances, each under a name that you choose; together they are one store."
    )
    check: Check = Field(description="The request that checks a token at an instance.")
    sync_interval: Seconds = Field(
        1, description="The interval in seconds at which the store synchronizes (`zone_sync_interval` of nginx Plus)."
    )
    retry_for: Seconds | None = Field(
        None,
        description="The seconds for which an instance that responds 401 is asked again, at least twice `sync_interval`. Defaults "
        "to 2.5 times `sync_interval`.",
        examples=[2.5],
    )
    deadline: Seconds | None = Field(
        None,
        description="The seconds after which a verdict is given, whatever is missing. Defaults to half a second after `retry_for`.",
        examples=[3],
    )
    quorum: Quorum = Field(
        "all",
        description="The number of instances besides the origin that must have the token: `all`, `majority`, or a number.",
        examples=["majority"],
    )
    stale_after: Seconds = Field(
        180, description="The age in seconds after which a list of instances is not used.", examples=[60]
    )
    zone_sync: ZoneSync | None = Field(
        None, description="The counters of zone_sync, which are read if instances do not agree."
    )
    canary: Canary | None = Field(None, description="Keys that are written to check and measure replication.")

    def problems(self) -> list[Finding]:
        return [*self._schedule_problems(), *self._source_problems(), *self._time_problems()]

    def warnings(self) -> list[Finding]:
        found = super().warnings()
        if self.check.plain_http:
            found.append(Finding(("check", "plain_http"), "sends tokens without encryption; use TLS and ca"))
        lasts = self.deadline if self.deadline is not None else self._retries_last + _GRACE
        if lasts > _LONGEST_ON_LAMBDA:
            key = "deadline" if self.deadline is not None else "sync_interval"
            what = f"lets a verdict take {lasts:g} seconds; on AWS the function probe ends after {_LONGEST_ON_LAMBDA + 5:g} seconds"
            found.append(Finding((key,), what))
        return found

    @property
    def _retries_last(self) -> float:
        return self.retry_for if self.retry_for is not None else 2.5 * self.sync_interval

    def _schedule_problems(self) -> Iterator[Finding]:
        if self.fresh_within is not None:
            what = "has no effect: nothing is scanned; alarms of canaries and of the listing take its place; remove it"
            yield Finding(("fresh_within",), what)
        for key in ("schedule", "webhook"):
            if getattr(self, key) is not None:
                what = "has no effect: the stack's ScrapeSchedule decides when instances are listed; remove it"
                yield Finding((key,), what)

    def _source_problems(self) -> Iterator[Finding]:
        for name, source in self.sources.items():
            path = ("sources", name)
            if (source.service is None) == (source.labels is None):
                yield Finding(path, "must have exactly one of service and labels")
            if source.labels is not None and not isinstance(source.port, int):
                yield Finding(path, "has labels but no numeric port; write the number of the pods' port under port")
            needs_api = isinstance(source.auth, TokenLogin | EksLogin)
            if needs_api and (source.api is None or not source.api.startswith("https://")):
                yield Finding(path, "has no URL of the cluster's API; write https://host[:port] under api")
            if not needs_api and (source.api is not None or source.ca is not None):
                yield Finding(path, "has api or ca, which in-cluster and a kubeconfig already provide; remove them")

    def _time_problems(self) -> Iterator[Finding]:
        least = _LEAST_INTERVALS * self.sync_interval
        if self.retry_for is not None and self.retry_for < least:
            what = f"is shorter than two sync intervals ({least:g} seconds), in which a token may still be replicated"
            yield Finding(("retry_for",), what, (("sync_interval",),))
        lasts = self._retries_last
        if self.deadline is not None and self.deadline <= lasts:
            what = f"is not longer than the retries, which last {lasts:g} seconds; write a larger value, or a smaller retry_for"
            yield Finding(("deadline",), what, (("sync_interval",), ("retry_for",)))
