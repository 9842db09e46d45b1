"""Invalid values: the exact position, the path of the key, and a message with the expected value."""

from __future__ import annotations

import pytest

from syncline.config.file import ConfigInvalid, Problem, parse_syncs

# A § in these texts marks the position of the first problem. It is not part of the file.
# ONE is a sync whose lines replace %s, each with four spaces before it.
ONE = """syncs:
  a:
%s"""
SOURCE = "source: {registry: prod.example, repositories: [team/app]}\n"
TARGET = "target: {registry: dr.example}\n"
WHOLE = "kind: images\n" + SOURCE + TARGET
FILES = "kind: files\nsource: {bucket: reports}\ntarget: {bucket: archive}\n"


def one(lines: str) -> str:
    return ONE % "".join(f"    {line}\n" for line in lines.splitlines())


def source(inside: str) -> str:
    return one(f"kind: images\nsource: {{registry: prod.example, {inside}}}\n{TARGET}")


def target(inside: str) -> str:
    return one(f"kind: images\n{SOURCE}target: {{registry: dr.example, {inside}}}\n")


def problems_of(text: str) -> list[Problem]:
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(text.replace("§", "").encode())
    assert raised.value.code.name == "CONFIG_INVALID"
    return raised.value.problems


def position_of_mark(text: str) -> tuple[int, int]:
    before = text.split("§", maxsplit=1)[0].split("\n")
    return len(before), len(before[-1]) + 1


INVALID = {
    # the file
    "empty": ("§", "", "the file is empty"),
    "only a comment": ("§# nothing\n", "", "the file is empty"),
    "null": ("§~\n", "", "the file is empty"),
    "a list on top": ("§- a\n", "", "begin it with syncs:"),
    "text on top": ("§syncs\n", "", "begin it with syncs:"),
    "another key on top": (one(WHOLE) + "§version: 1\n", "version", "is not a valid key; allowed: syncs"),
    "a misspelled key on top": ("§sync:\n  a: {}\n", "sync", "did you mean syncs?"),
    "no syncs": ("§{}\n", "", "the file has no syncs"),
    "syncs empty": ("§syncs:\n", "syncs", "put each sync's name below it"),
    "syncs a list": ("§syncs: [a]\n", "syncs", "put each sync's name below it"),
    "two documents": (one(WHOLE) + "§---\nsyncs: {}\n", "", "second document"),
    "a tab": ("syncs:\n§\ta: 1\n", "", "indent with spaces"),
    "a tab after spaces": ("syncs:\n  a:\n  §\tkind: images\n", "", "indent with spaces"),
    "a colon in a value": (one("kind: images\nschedule: rate§: x\n"), "", 'has a ": " inside a value'),
    "an open bracket": ("syncs: {a: [1\n§", "", "is not closed"),
    "an open quote": ("syncs: {a: 'hunter2\n§", "", "is not closed"),
    "no colon": ("syncs:\n  a: {}\n  hunter2\n§", "", "no colon"),
    "an odd first character": ("syncs: §@hunter2\n", "", "write the value in quotes"),
    "an unknown anchor": (one(WHOLE + "select: §*hunter2\n"), "", "refers to an anchor that does not exist"),
    "an anchor around itself": ("syncs: &all\n  a: §*all\n", "", "refers to an anchor that contains it"),
    "a tag": (one("kind: §!!python/object:os.system images\n" + SOURCE + TARGET), "syncs.a.kind", "YAML tag"),
    "a tag on a mapping": ("syncs: §!hunter2 {}\n", "syncs", "YAML tag"),
    "a key twice": (one(WHOLE + "§kind: images\n"), "syncs.a.kind", "is repeated (first in line 3)"),
    "a sync twice": (one(WHOLE) + "  §a: {}\n", "syncs.a", "is repeated (first in line 2)"),
    "a list for a key": ("syncs: {§[a]: 1}\n", "syncs", "plain text before the colon"),
    "a merge of text": (one(WHOLE + "§<<: x\n"), "syncs.a", "write <<: *name"),
    "too deep": ("syncs: " + "[" * 20 + "§[" + "]" * 21, "", "nested deeper than 20 levels"),
    "a control character": ("syncs: §\x07\n", "", "that YAML does not allow"),
    # a sync
    "a name with capitals": ("syncs:\n  §Prod: {kind: images, source: {registry: a, repositories: [b]}, target: {registry: c}}\n", "syncs.Prod", "a-z 0-9 -"),
    "a name too long": ("syncs:\n  §" + "a" * 64 + ":\n    kind: images\n    " + SOURCE + "    " + TARGET, "syncs." + "a" * 64, "1 to 63"),
    "a sync that is text": ("syncs:\n  §a: images\n", "syncs.a", "put kind, source and target below it"),
    "no kind": (one("§").replace("a:", "§a:").replace("    §", "    enabled: true"), "syncs.a.kind", "is missing; allowed: images"),
    "another kind": (one("kind: §image\n" + SOURCE + TARGET), "syncs.a.kind", "did you mean images? allowed: images"),
    "a kind that is a number": (one("kind: §1\n" + SOURCE + TARGET), "syncs.a.kind", "allowed: images"),
    "no source": ("syncs:\n  §a:\n    kind: images\n    " + TARGET, "syncs.a.source", "is missing; expected: the registry that images come from"),
    "no target": ("syncs:\n  §a:\n    kind: images\n    " + SOURCE, "syncs.a.target", "is missing; expected: the registry that images go to"),
    "an unknown key": (one(WHOLE + "§concurency: 3\n"), "syncs.a.concurency", "did you mean concurrency? allowed: kind, schedule"),
    "a name inside": (one(WHOLE + "§name: b\n"), "syncs.a.name", "the key above it"),
    "enabled is text": (one(WHOLE + "enabled: §yes\n"), "syncs.a.enabled", "is text; write true or false"),
    "overwrite is a number": (one(WHOLE + "overwrite: §1\n"), "syncs.a.overwrite", "is a number; write true or false"),
    "overwrite is empty": (one(WHOLE + "§overwrite:\n"), "syncs.a.overwrite", "is empty; write true or false"),
    "concurrency 0": (one(WHOLE + "concurrency: §0\n"), "syncs.a.concurrency", "is 0, which is too small; expected: images that one function copies at a time, 1 to 32"),
    "concurrency 33": (one(WHOLE + "concurrency: §33\n"), "syncs.a.concurrency", "is 33, which is too large; expected: images that one function copies at a time, 1 to 32"),
    "concurrency as text": (one(WHOLE + 'concurrency: §"8"\n'), "syncs.a.concurrency", "not a whole number; expected: images that one function copies"),
    "concurrency 1.5": (one(WHOLE + "concurrency: §1.5\n"), "syncs.a.concurrency", "not a whole number; expected: images that one function copies"),
    "a pause as text": (one(FILES + "events: {longest: §soon}\n"), "syncs.a.events.longest", "is text, not a number; expected: seconds after the first"),
    "a limit that is true": (one(FILES + "removals: {share: §true}\n"), "syncs.a.removals.share", "is true or false, not a number; expected: largest"),
    "a schedule in plural": (one(WHOLE + "schedule: §rate(1 hours)\n"), "syncs.a.schedule", "write rate(1 hour)"),
    "a schedule of five fields": (one(WHOLE + "schedule: §cron(0 3 * * *)\n"), "syncs.a.schedule", "six are needed"),
    "a schedule in words": (one(WHOLE + "schedule: §hourly\n"), "syncs.a.schedule", "write rate(1 hour) or cron("),
    "a schedule as a number": (one(WHOLE + "schedule: §60\n"), "syncs.a.schedule", "not text"),
    "an unknown time zone": (one(WHOLE + "timezone: §Asia/Calcuta\n"), "syncs.a.timezone", "did you mean Asia/Calcutta?"),
    "a time zone by offset": (one(WHOLE + "timezone: §UTC+5:30\n"), "syncs.a.timezone", "write a name such as Asia/Kolkata"),
    "a webhook without secret": (one(WHOLE + "§webhook: {}\n"), "syncs.a.webhook.secret", "is missing; expected: a reference to the secret"),
    "a webhook that is a secret": (one(WHOLE + "webhook: §hunter2\n"), "syncs.a.webhook", "allowed keys: secret"),
    "a webhook's secret itself": (one(WHOLE + "webhook: {secret: §hunter2}\n"), "syncs.a.webhook.secret", "write secret:NAME#KEY, ssm:/PATH or env:NAME"),
    "select is a list": (one(WHOLE + "§select: [a]\n"), "syncs.a.select", "allowed keys: repositories, tags"),
    # endpoints
    "no registry": (one("kind: images\n§source: {repositories: [a]}\n" + TARGET), "syncs.a.source.registry", "such as quay.prod.example:8443"),
    "a registry with scheme": (one("kind: images\n" + SOURCE + "target: {registry: §https://dr.example}\n"), "syncs.a.target.registry", "has a scheme; write only host[:port]"),
    "a registry with path": (one("kind: images\n" + SOURCE + "target: {registry: §dr.example/mirror}\n"), "syncs.a.target.registry", "has a path"),
    "a registry with password": (one("kind: images\n" + SOURCE + "target: {registry: §bot:hunter2@dr.example}\n"), "syncs.a.target.registry", "credentials under auth"),
    "a port too large": (one("kind: images\n" + SOURCE + "target: {registry: §dr.example:70000}\n"), "syncs.a.target.registry", "1 to 65535"),
    "a registry with a blank": (one("kind: images\n" + SOURCE + "target: {registry: §dr example}\n"), "syncs.a.target.registry", "is not host[:port]"),
    "a registry that is empty": (one("kind: images\n" + SOURCE + 'target: {registry: §""}\n'), "syncs.a.target.registry", "is not host[:port]"),
    "a realm with port": (source("repositories: [a], auth_realms: [§auth.example:1]"), "syncs.a.source.auth_realms[0]", "has a port"),
    "realms as text": (source("repositories: [a], auth_realms: §auth.example"), "syncs.a.source.auth_realms", "not a list"),
    "plain_http as text": (source('repositories: [a], plain_http: §"true"'), "syncs.a.source.plain_http", "write true or false"),
    "an unknown key at the source": (source("repositories: [a], §tokens: 1"), "syncs.a.source.tokens", "allowed: registry, auth"),
    "a prefix at the source": (source("repositories: [a], §prefix: x"), "syncs.a.source.prefix", "is not a valid key"),
    "a prefix with a slash": (target("prefix: §mirror/"), "syncs.a.target.prefix", "has an empty path part"),
    "a prefix with capitals": (target("prefix: §Mirror"), "syncs.a.target.prefix", "has capital letters"),
    # credentials
    "a password itself": (source("repositories: [a], auth: {username: u, password: §hunter2}"), "syncs.a.source.auth.password", "write secret:NAME#KEY, ssm:/PATH or env:NAME"),
    "a password that is a number": (source("repositories: [a], auth: {username: u, password: §31337}"), "syncs.a.source.auth.password", "write secret:NAME#KEY"),
    "a token itself": (source("repositories: [a], auth: {token: §hunter2}"), "syncs.a.source.auth.token", "write secret:NAME#KEY"),
    "a secret without name": (source("repositories: [a], auth: {token: §'secret:'}"), "syncs.a.source.auth.token", "write secret:NAME or secret:NAME#KEY"),
    "a parameter without slash": (source("repositories: [a], auth: {token: §ssm:hunter2}"), "syncs.a.source.auth.token", "write ssm:/PATH"),
    "a variable with a dash": (source("repositories: [a], auth: {token: §env:hunter2-x}"), "syncs.a.source.auth.token", "write env:NAME"),
    "token and user name": (source("repositories: [a], §auth: {token: env:T, username: u}"), "syncs.a.source.auth", "write one of the two"),
    "a password without user name": (source("repositories: [a], §auth: {password: env:P}"), "syncs.a.source.auth.username", "is missing; expected: the user name"),
    "a user name without password": (source("repositories: [a], §auth: {username: u}"), "syncs.a.source.auth.password", "is missing; expected: a reference to the password"),
    "a user name with colon": (source("repositories: [a], auth: {username: §'bot:hunter2', password: env:P}"), "syncs.a.source.auth.username", "without a colon"),
    "auth as a secret": (source("repositories: [a], auth: §hunter2"), "syncs.a.source.auth", "docker-config or anonymous"),
    "auth empty": (source("repositories: [a], §auth: {}"), "syncs.a.source.auth", "docker-config or anonymous"),
    "auth null": (source("repositories: [a], §auth: "), "syncs.a.source.auth", "docker-config or anonymous"),
    "auth a list": (source("repositories: [a], §auth: [hunter2]"), "syncs.a.source.auth", "docker-config or anonymous"),
    "an unknown key that may be a secret": (source("repositories: [a], auth: {username: u, password: env:P, §hunter2: 1}"), "syncs.a.source.auth", "has an invalid key; allowed: username, password"),
    "a misspelled password": (source("repositories: [a], auth: {username: u, §pasword: hunter2}"), "syncs.a.source.auth.pasword", "did you mean password?"),
    "ecr elsewhere": (source("repositories: [a], §auth: ecr"), "syncs.a.source.auth", "needs a registry of ECR"),
    "the short name of Docker Hub": (one("kind: images\nsource: {§registry: docker.io, repositories: [a]}\n" + TARGET), "syncs.a.source.registry", "registry-1.docker.io"),
    "repositories created elsewhere": (target("§create_repositories: ecr"), "syncs.a.target.create_repositories", "needs a registry of ECR"),
    # limits
    "limits of nothing": (source("repositories: [a], §limits: {}"), "syncs.a.source.limits", "limits nothing"),
    "too few requests": (source("repositories: [a], limits: {requests_per_second: §0.5}"), "syncs.a.source.limits.requests_per_second", "1"),
    "one connection": (source("repositories: [a], limits: {concurrent: §1}"), "syncs.a.source.limits.concurrent", "2"),
    "a rate in bits": (source("repositories: [a], limits: {bytes_per_second: §50Mbit}"), "syncs.a.source.limits.bytes_per_second", "such as 50MB"),
    "a rate that is too low": (source("repositories: [a], limits: {bytes_per_second: §1000}"), "syncs.a.source.limits.bytes_per_second", "at least 64kB"),
    # the authority
    "a ca that is not there": (source("repositories: [a], ca: §file:/nonexistent.pem"), "syncs.a.source.ca", "No such file or directory"),
    "a ca of an unknown user": (source("repositories: [a], ca: §file:~nobody-of-that-name/ca.pem"), "syncs.a.source.ca", "home"),
    "a ca without form": (source("repositories: [a], ca: §ca.pem"), "syncs.a.source.ca", "write file:PATH"),
    "a ca that is no certificate": (source('repositories: [a], ca: §"-----BEGIN CERTIFICATE-----\\nhunter2\\n-----END CERTIFICATE-----"'), "syncs.a.source.ca", "is not a valid certificate"),
    "a ca that is a private key": (source('repositories: [a], ca: §"-----BEGIN EC PRIVATE KEY-----\\nhunter2"'), "syncs.a.source.ca", "contains a private key"),
    # signatures
    "a rule without a signer": (one(f"kind: images\n{SOURCE}{TARGET}verify:\n  - §repositories: {{include: [a]}}"), "syncs.a.verify[0]", "names no signer"),
    "a rule with two signers": (one(f"kind: images\n{SOURCE}{TARGET}verify:\n  - §public_key: env:A\n    identity: {{issuer: i, subject: s, ca: env:C, log_key: env:L}}"), "syncs.a.verify[0]", "names two signers"),
    "a public key that is not there": (one(f"kind: images\n{SOURCE}{TARGET}verify:\n  - public_key: §file:/nonexistent.pub"), "syncs.a.verify[0].public_key", "No such file or directory"),
    "a public key without form": (one(f"kind: images\n{SOURCE}{TARGET}verify:\n  - public_key: §cosign.pub"), "syncs.a.verify[0].public_key", "write file:PATH"),
    "a public key that is none": (one(f'kind: images\n{SOURCE}{TARGET}verify:\n  - public_key: §"-----BEGIN PUBLIC KEY-----\\nhunter2\\n-----END PUBLIC KEY-----"'), "syncs.a.verify[0].public_key", "is not a valid public key"),
    "a private key for a public one": (one(f'kind: images\n{SOURCE}{TARGET}verify:\n  - public_key: §"-----BEGIN EC PRIVATE KEY-----\\nhunter2"'), "syncs.a.verify[0].public_key", "contains a private key"),
    "a subject that is no pattern": (one(f'kind: images\n{SOURCE}{TARGET}verify:\n  - identity: {{issuer: i, subject: §"re:(", ca: env:C, log_key: env:L}}'), "syncs.a.verify[0].identity.subject", "is not a regular expression"),
    # the proxy
    "a proxy with password": (source("repositories: [a], proxy: §'http://ann:hunter2@proxy.example:3128'"), "syncs.a.source.proxy", "store the URL with them as a secret"),
    "a proxy without scheme": (source("repositories: [a], proxy: §'ann:hunter2@proxy.example:3128'"), "syncs.a.source.proxy", "write http://host:port"),
    "a proxy without port": (source("repositories: [a], proxy: §'http://proxy.example'"), "syncs.a.source.proxy", "write http://host:port"),
    "a proxy with path": (source("repositories: [a], proxy: §'http://proxy.example:3128/hunter2'"), "syncs.a.source.proxy", "write http://host:port"),
    "a proxy with a port too large": (source("repositories: [a], proxy: §'http://proxy.example:70000'"), "syncs.a.source.proxy", "write http://host:port"),
    "a proxy by https": (source("repositories: [a], proxy: §'https://proxy.example:3128'"), "syncs.a.source.proxy", "write http://host:port"),
    "a proxy that is a number": (source("repositories: [a], proxy: §3128"), "syncs.a.source.proxy", "write http://host:port"),
    # the API
    "an api without kind": (source("repositories: [a], §api: {}"), "syncs.a.source.api.kind", "is missing; expected: the API's kind"),
    "another api": (source("repositories: [a], api: {kind: §harbor}"), "syncs.a.source.api.kind", "'quay'"),
    "an api that is text": (source("repositories: [a], api: §quay"), "syncs.a.source.api", "allowed keys: kind, url, token"),
    "an api's url without scheme": (source("repositories: [a], api: {kind: quay, url: §quay.example}"), "syncs.a.source.api.url", "write https://host[:port]"),
    "an api's url with password": (source("repositories: [a], api: {kind: quay, url: §'https://u:hunter2@quay.example'}"), "syncs.a.source.api.url", "user name or password"),
    "an api's url with query": (source("repositories: [a], api: {kind: quay, url: §'https://quay.example?t=hunter2'}"), "syncs.a.source.api.url", "has a query"),
    "an api's url with path": (source("repositories: [a], api: {kind: quay, url: §'https://quay.example/api/v1'}"), "syncs.a.source.api.url", "has a path"),
    "an api's token itself": (source("repositories: [a], api: {kind: quay, token: §hunter2}"), "syncs.a.source.api.token", "write secret:NAME#KEY"),
    # the repositories
    "no selector": (one("kind: images\n§source: {registry: prod.example}\n" + TARGET), "syncs.a.source", "write one of repositories, organizations and catalog: true"),
    "catalog: false alone": (one("kind: images\n§source: {registry: prod.example, catalog: false}\n" + TARGET), "syncs.a.source", "write one of repositories"),
    "two selectors": (source("repositories: [a], §catalog: true"), "syncs.a.source.catalog", "cannot be combined with repositories; write exactly one"),
    "organizations without api": (source("§organizations: [payments]"), "syncs.a.source.organizations", "needs api: {kind: quay}"),
    "an organization with a path": (source("organizations: [§payments/app], api: {kind: quay}"), "syncs.a.source.organizations[0]", "write only its name"),
    "no repositories": (source("§repositories: []"), "syncs.a.source.repositories", "is an empty list"),
    "repositories as text": (source("repositories: §team/app"), "syncs.a.source.repositories", "is text, not a list; expected: these repositories, such as [team/app, team/base]"),
    "a repository twice": (source("§repositories: [a, b, a]"), "syncs.a.source.repositories", "lists a twice"),
    "a repository with tag": (source("repositories: [a, §'team/app:v1']"), "syncs.a.source.repositories[1]", "has a host, tag or digest"),
    "a repository with capitals": (source("repositories: [§Team/App]"), "syncs.a.source.repositories[0]", "has capital letters"),
    "a repository with an odd end": (source("repositories: [§team/app-]"), "syncs.a.source.repositories[0]", "lower-case parts"),
    "a repository too long": (source(f"repositories: [§{'a' * 256}]"), "syncs.a.source.repositories[0]", "longer than 255"),
    "a repository that is a number": (source("repositories: [§1.10]"), "syncs.a.source.repositories[0]", "write it in quotes"),
    # patterns
    "a regex that does not compile": (one(WHOLE + "select: {tags: {include: [§'re:v(']}}\n"), "syncs.a.select.tags.include[0]", "is not a regular expression of Python"),
    "a regex with nested repetition": (one(WHOLE + "select: {tags: {exclude: [a, §'re:(a+)+']}}\n"), "syncs.a.select.tags.exclude[1]", "repetition inside a repetition"),
    "a pattern with braces": (one(WHOLE + "select: {repositories: {include: [§'{a,b}']}}\n"), "syncs.a.select.repositories.include[0]", "write several patterns"),
    "a pattern with an open set": (one(WHOLE + "select: {tags: {include: [§'v[12']}}\n"), "syncs.a.select.tags.include[0]", "has a [ without a ]"),
    "an empty pattern": (one(WHOLE + "select: {tags: {include: [§'']}}\n"), "syncs.a.select.tags.include[0]", "is empty"),
    "a pattern too long": (one(WHOLE + f"select: {{tags: {{include: [§{'a' * 201}]}}}}\n"), "syncs.a.select.tags.include[0]", "longer than 200"),
    "a pattern that is a number": (one(WHOLE + "select: {tags: {include: [§1.10]}}\n"), "syncs.a.select.tags.include[0]", "write it in quotes"),
    "patterns as text": (one(WHOLE + "select: {tags: {include: §'*'}}\n"), "syncs.a.select.tags.include", "is text, not a list"),
    # a source equal to its target
    "source is target": (one("kind: images\n" + SOURCE + "target: {§registry: prod.example}\n"), "syncs.a.target.registry", "is the source itself"),
    "source is target in capitals": (one("kind: images\n" + SOURCE + "target: {§registry: PROD.Example}\n"), "syncs.a.target.registry", "is the source itself"),
    "source is target with port": (one("kind: images\n" + SOURCE + "target: {§registry: 'prod.example:443'}\n"), "syncs.a.target.registry", "is the source itself"),
    "source is target with dot": (one("kind: images\n" + SOURCE + "target: {§registry: prod.example.}\n"), "syncs.a.target.registry", "is the source itself"),
    "source is target by http": (one("kind: images\nsource: {registry: 'p', plain_http: true, repositories: [a]}\ntarget: {§registry: 'p:80', plain_http: true}\n"), "syncs.a.target.registry", "is the source itself"),
    "source is target on this machine": (one("kind: images\nsource: {registry: 'localhost:5000', repositories: [a]}\ntarget: {§registry: '127.0.0.1:5000'}\n"), "syncs.a.target.registry", "is the source itself"),
    "a catalog that finds its copies": (one("kind: images\nsource: {registry: p, catalog: true}\ntarget: {registry: p, §prefix: mirror}\n"), "syncs.a.target.prefix", "copied again"),
    "a repository onto another": (one("kind: images\nsource: {registry: p, repositories: [a, m/a]}\ntarget: {registry: p, §prefix: m}\n"), "syncs.a.target.prefix", "a target and a source"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "path", "words"), INVALID.values(), ids=INVALID)
def test_an_invalid_value_is_reported_with_its_position(text: str, path: str, words: str) -> None:
    problems = problems_of(text)
    assert len(problems) == 1, [problem.text("f") for problem in problems]
    problem = problems[0]
    assert (problem.line, problem.column) == position_of_mark(text), problem.text("f")
    assert problem.path == path
    assert words in problem.message
    assert "hunter2" not in problem.text("f").replace("no ", "")
    assert "31337" not in problem.text("f")


def test_the_python_yaml_parser_reports_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("yaml.CSafeLoader")
    for name, (text, path, words) in INVALID.items():
        problem = problems_of(text)[0]
        assert (problem.line, problem.path) == (position_of_mark(text)[0], path), name
        assert words in problem.message, name


BEGINNINGS = [
    "",
    *"*&!@%`|>'\"{[#\t\\",
    "? ",
    "- ",
    ": ",
    "x: ",
    "<<: ",
    "!!str ",
    "&a *a ",
    "*a: ",
    "env:a-",
    "secret:#",
    "ssm:",
]
ENDS = ["", ": ", "}", "]", "'", '"', "\n\t", " #", "\x07", "\n---"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_secret_in_the_wrong_place_is_never_repeated(beginning: str, end: str) -> None:
    for key in ("password: ", "token: ", "username: ", ""):
        lines = f"auth:\n  {key}{beginning}hunter2{end}\n".replace("\n", "\n      ")
        text = one("kind: images\n" + TARGET + "source: {registry: p, repositories: [a]}\n")
        for part in (
            text.replace("registry: p", lines),
            text.replace("{registry: p, repositories: [a]}", "\n      " + lines),
        ):
            try:
                parse_syncs(part.encode())
            except ConfigInvalid as error:
                assert "hunter2" not in str(error), part  # noqa: PT017 - some of the texts are valid


def test_all_problems_are_reported_in_the_order_of_lines() -> None:
    text = """syncs:
  Prod:
    kind: images
    schedule: rate(2 hour)
    source:
      registry: https://prod.example
      repositories: [a]
      auth: {username: u, password: hunter2}
    target: {registry: dr.example}
  b:
    kind: images
    colour: red
    source: {registry: prod.example, organizations: [x], catalog: true}
    target: {registry: dr.example}
    select: {tags: {include: ["re:("]}}
  c:
    kind: images
    concurrency: 40
    source: {registry: prod.example, repositories: [a]}
    target: {registry: dr.example}
  d:
    kind: images
    source: {registry: prod.example, repositories: [a]}
    target: {registry: DR.example:443}
  d: {}
"""
    found = [(problem.line, problem.path) for problem in problems_of(text)]
    assert found == [
        (2, "syncs.Prod"),
        (4, "syncs.Prod.schedule"),
        (6, "syncs.Prod.source.registry"),
        (8, "syncs.Prod.source.auth.password"),
        (12, "syncs.b.colour"),
        (13, "syncs.b.source.organizations"),
        (13, "syncs.b.source.catalog"),
        (15, "syncs.b.select.tags.include[0]"),
        (18, "syncs.c.concurrency"),
        (24, "syncs.d.target.registry"),
        (25, "syncs.d"),
    ]


def test_the_error_names_the_file_and_every_problem() -> None:
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(b"syncs:\n  A: 1\n  b: 2\n", name="my-syncs.yaml")
    assert str(raised.value).splitlines() == [
        "CONFIG_INVALID: my-syncs.yaml:2:3: syncs.A: is not a mapping; put kind, source and target below it",
        "my-syncs.yaml:3:3: syncs.b: is not a mapping; put kind, source and target below it",
    ]


def test_an_invalid_key_does_not_cause_other_errors() -> None:
    text = one("kind: images\nsource: {registry: prod.example, organisations: [x], api: {kind: quay}}\n" + TARGET)
    assert [problem.path for problem in problems_of(text)] == ["syncs.a.source.organisations"]
    text = source("organizations: [x], api: {kind: quayy}")
    assert [problem.path for problem in problems_of(text)] == ["syncs.a.source.api.kind"]


def test_text_instead_of_a_number_is_reported() -> None:
    """Integers and floats are allowed, so pydantic reports two paths."""
    text = """syncs:
  nightly:
    kind: backups
    source: {bucket: backups}
    target: {repository: "https://git.example/backups.git"}
    commit: {author: {name: bot, email: bot@example.com}}
    events: {quiet: 30, longest: soon}
"""
    assert {problem.line for problem in problems_of(text)} == {7}
