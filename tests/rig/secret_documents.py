"""Encodings of a Kubernetes Secret with a planted value, and harmless documents that resemble one."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
import zlib
from typing import Final

import zstandard

PLANTED: Final = "planted-7f3a9c-value"
_ENCODED: Final = base64.b64encode(PLANTED.encode()).decode()

YAML: Final = f"""apiVersion: v1
kind: Secret
metadata:
  name: db
  namespace: shop
type: Opaque
data:
  password: {_ENCODED}
stringData:
  other: {PLANTED}
""".encode()
OBJECT: Final = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "db", "namespace": "shop"},
    "data": {"password": _ENCODED},
    "stringData": {"other": PLANTED},
}
JSON: Final = json.dumps(OBJECT).encode()
CONFIG: Final = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {mode: fast}\n"
CONFIG_OBJECT: Final = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"mode": "fast"}}


def packed(members: dict[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive; `mode` is one of tarfile's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def escaped(text: str) -> str:
    """Write each letter of `text` as a hexadecimal escape."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def _wrapped(data: bytes, width: int, indent: str = "    ") -> str:
    text = base64.b64encode(data).decode()
    return "\n".join(indent + text[at : at + width] for at in range(0, len(text), width))


def _inside(text: str) -> bytes:
    """Return a ConfigMap that holds `text` in its data."""
    return json.dumps({**CONFIG_OBJECT, "data": {"file": text}}).encode()


def _protobuf(kind: bytes, value: bytes) -> bytes:
    return (
        b"k8s\x00\n"
        + bytes([6 + len(kind)])
        + b"\n\x02v1\x12"
        + bytes([len(kind)])
        + kind
        + b"\x12\x30"
        + value
        + b'\x1a\0"\0'
    )


_LAST: Final = "kubectl.kubernetes.io/last-applied-configuration"
_TEXT: Final = YAML.decode()
_ZSTD: Final = zstandard.ZstdCompressor()
_HELM: Final = {"name": "shop", "manifest": f"---\n# Source: shop/templates/secret.yaml\n{_TEXT}", "version": 1}
_KINDLESS: Final = {key: value for key, value in OBJECT.items() if key not in ("kind", "apiVersion")}

WAYS: Final[dict[str, tuple[str, bytes]]] = {
    # Names
    "plain yaml": ("s.yaml", YAML),
    "plain json": ("s.json", JSON),
    "backup suffix": ("s.yaml.bak", YAML),
    "text suffix": ("s.txt", YAML),
    "no suffix": ("s", YAML),
    "json without suffix": ("s", JSON),
    "upper-case suffix": ("S.YAML", YAML),
    "log suffix": ("s.log", JSON + b"\n"),
    # Streams of documents
    "json lines": ("s.jsonl", json.dumps(CONFIG_OBJECT).encode() + b"\n" + JSON + b"\n"),
    "json lines named json": ("s.json", json.dumps(CONFIG_OBJECT).encode() + b"\r\n" + JSON + b"\r\n"),
    "json lines named yaml": ("s.yaml", JSON + b"\n" + JSON + b"\n"),
    "concatenated json": ("s.json", json.dumps(CONFIG_OBJECT).encode() + JSON),
    "json sequence (RFC 7464)": ("s.json", b"\x1e" + JSON + b"\n\x1e" + JSON + b"\n"),
    "yaml documents": ("s.yaml", b"---\n" + YAML + b"...\n" + YAML),
    "json between yaml documents": ("s.yaml", CONFIG + b"---\n" + JSON + b"\n"),
    "yaml with lone carriage returns": ("s.yaml", YAML.replace(b"\n", b"\r")),
    "a broken document before it": ("s.yaml", b"a: [\n---\n" + YAML),
    "the word in a directive's comment": ("s.yaml", b"%YAML 1.1 # x\n---\n" + YAML),
    # Encodings
    "utf-8 with a mark": ("s.yaml", b"\xef\xbb\xbf" + YAML),
    "utf-16 little-endian with a mark": ("s.yaml", b"\xff\xfe" + _TEXT.encode("utf-16-le")),
    "utf-16 big-endian with a mark": ("s.yaml", b"\xfe\xff" + _TEXT.encode("utf-16-be")),
    "utf-16 little-endian": ("s.json", JSON.decode().encode("utf-16-le")),
    "utf-16 big-endian": ("s.yaml", _TEXT.encode("utf-16-be")),
    "utf-32 little-endian": ("s.yaml", _TEXT.encode("utf-32-le")),
    "utf-32 big-endian with a mark": ("s.yaml", b"\0\0\xfe\xff" + _TEXT.encode("utf-32-be")),
    "utf-16 after other letters": ("s.yaml", ("# \u65e5\u672c\u8a9e\n" + _TEXT).encode("utf-16")),
    "latin-1 in a comment": ("s.yaml", b"# caf\xe9\n" + YAML),
    "control characters": ("s.yaml", b"# \x1b[31m\n" + YAML),
    # Compression and archives
    "gzip": ("s.yaml.gz", gzip.compress(YAML)),
    "gzip without suffix": ("s", gzip.compress(JSON)),
    "concatenated gzip": ("s.gz", gzip.compress(CONFIG) + gzip.compress(b"---\n" + YAML)),
    "gzip with text behind it": ("s.gz", gzip.compress(CONFIG) + YAML),
    "gzip cut short": ("s.gz", gzip.compress(YAML + random.Random(1).randbytes(4000))[:-2000]),
    "gzip in gzip": ("s.gz", gzip.compress(gzip.compress(YAML))),
    "gzip of utf-16": ("s.gz", gzip.compress(_TEXT.encode("utf-16"))),
    "zstd": ("s.zst", _ZSTD.compress(YAML)),
    "concatenated zstd": ("s.zst", _ZSTD.compress(CONFIG) + _ZSTD.compress(b"---\n" + YAML)),
    "zstd behind a skippable frame": ("s.zst", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + _ZSTD.compress(YAML)),
    "bzip2": ("s.bz2", bz2.compress(YAML)),
    "xz": ("s.xz", lzma.compress(YAML)),
    "zlib": ("s.z", zlib.compress(YAML)),
    "zip": ("s.zip", zipped({"a.txt": b"x", "s.yaml": YAML})),
    "stored zip": ("s.zip", zipped({"s.yaml": YAML}, zipfile.ZIP_STORED)),
    "tar": ("s.tar", packed({"a": b"x", "resources/secrets/db.json": JSON})),
    "tar of the older form": ("s.tar", packed({"x" * 120: YAML}, form=tarfile.GNU_FORMAT)),
    "velero's archive": (
        "backup.tar.gz",
        packed({"metadata/version": b"1.1.0", "resources/secrets/db.json": JSON}, "w:gz"),
    ),
    "gzip in a tar": ("s.tar", packed({"s.yaml.gz": gzip.compress(YAML)})),
    "velero's resource list": (
        "backup-resource-list.json.gz",
        gzip.compress(json.dumps({"v1/Pod": ["shop/web"], "v1/Secret": [_KINDLESS]}).encode()),
    ),
    "etcd's protobuf": ("snapshot.db", b"\0" * 64 + _protobuf(b"Secret", PLANTED.encode()) + b"\0" * 64),
    # Escapes
    "escaped letter": ("s.yaml", YAML.replace(b"kind: Secret", b'kind: "\\u0053ecret"')),
    "escaped letter in json": ("s.json", JSON.replace(b'"Secret"', b'"\\u0053ecret"')),
    "every letter escaped": ("s.json", JSON.replace(b'"Secret"', f'"{escaped("Secret")}"'.encode())),
    "escaped keys": (
        "s.json",
        JSON.replace(b'"kind"', f'"{escaped("kind")}"'.encode()).replace(b'"data"', f'"{escaped("data")}"'.encode()),
    ),
    "short escapes": ("s.yaml", YAML.replace(b"kind: Secret", b'kind: "\\x53\\x65cret"')),
    "long escapes": ("s.yaml", YAML.replace(b"kind: Secret", b'kind: "\\U00000053ecret"')),
    "folded inside quotes": ("s.yaml", YAML.replace(b"kind: Secret", b'kind: "Sec\\\n  ret"')),
    "escaped white space around it": ("s.yaml", YAML.replace(b"kind: Secret", b'kind: "\\tSecret\\x20"')),
    # Forms of YAML
    "space after the key": ("s.yaml", YAML.replace(b"kind: Secret", b"kind : Secret")),
    "quoted": ("s.yaml", YAML.replace(b"kind: Secret", b"'kind': 'Secret'")),
    "tag !!str": ("s.yaml", YAML.replace(b"kind: Secret", b"kind: !!str Secret")),
    "tag on the key": ("s.yaml", YAML.replace(b"kind: Secret", b"!!str kind: Secret")),
    "tag of their own": ("s.yaml", YAML.replace(b"kind: Secret", b"kind: !mine Secret")),
    "tag on the document": ("s.yaml", b"--- !k8s\n" + YAML),
    "tag that builds objects": ("s.yaml", b"--- !!python/object:os.system\n" + YAML),
    "tag !!binary": ("s.yaml", YAML.replace(b"kind: Secret", b"kind: !!binary U2VjcmV0")),
    "tags !!binary alone": (
        "s.yaml",
        f"!!binary a2luZA==: !!binary U2VjcmV0\n!!binary ZGF0YQ==: {{p: {_ENCODED}}}\n".encode(),
    ),
    "anchor and alias": ("s.yaml", b"x: &k Secret\n" + YAML.replace(b"kind: Secret", b"kind: *k")),
    "merge key": (
        "s.yaml",
        b"base: &b {kind: Secret, apiVersion: v1}\nmine:\n  <<: *b\n  data: {password: " + _ENCODED.encode() + b"}\n",
    ),
    "merged data": ("s.yaml", b"d: &d {data: {p: " + _ENCODED.encode() + b"}}\nmine: {kind: Secret, <<: [*d]}\n"),
    "block scalar": ("s.yaml", YAML.replace(b"kind: Secret", b"kind: >-\n  Secret")),
    "alias of a key": ("s.yaml", b"x: {&k Secret : 1}\nd: {kind: *k, data: {p: " + _ENCODED.encode() + b"}}\n"),
    "alias of a document": ("s.yaml", b"x: &d {p: " + _ENCODED.encode() + b"}\ny: {kind: Secret, data: *d}\n"),
    "explicit key": ("s.yaml", YAML.replace(b"kind: Secret", b"? kind\n: Secret")),
    "flow": ("s.yaml", f"{{apiVersion: v1, kind: Secret, data: {{password: {_ENCODED}}}}}\n".encode()),
    "single-quoted json": ("s.json", f"{{'kind': 'Secret', 'stringData': {{'p': '{PLANTED}'}},}}".encode()),
    "duplicate keys": ("s.yaml", YAML + b"kind: ConfigMap\n"),
    "duplicate keys first": ("s.yaml", b"kind: ConfigMap\n" + YAML),
    "duplicate keys in json": ("s.json", JSON[:-1] + b', "kind": "ConfigMap"}'),
    "duplicate data in json": ("s.json", JSON[:-1] + b', "data": null, "stringData": null}'),
    "other case of the key": ("s.json", JSON.replace(b'"kind"', b'"Kind"').replace(b'"data"', b'"Data"')),
    # Places
    "list": (
        "s.yaml",
        b"kind: List\napiVersion: v1\nitems:\n- kind: ConfigMap\n- " + YAML.replace(b"\n", b"\n  ").rstrip() + b"\n",
    ),
    "list of its kind": (
        "s.json",
        json.dumps({"kind": "SecretList", "apiVersion": "v1", "items": [_KINDLESS]}).encode(),
    ),
    "list in a list": ("s.json", json.dumps({"kind": "List", "items": [{"kind": "List", "items": [OBJECT]}]}).encode()),
    "openshift's template": ("s.json", json.dumps({"kind": "Template", "objects": [CONFIG_OBJECT, OBJECT]}).encode()),
    "manifest work": (
        "s.json",
        json.dumps({"kind": "ManifestWork", "spec": {"workload": {"manifests": [OBJECT]}}}).encode(),
    ),
    "raw extension": ("s.json", json.dumps({"kind": "Work", "spec": {"raw": OBJECT}}).encode()),
    "array at the top": ("s.json", json.dumps([CONFIG_OBJECT, OBJECT]).encode()),
    "watch event": ("s.json", json.dumps({"type": "ADDED", "object": OBJECT}).encode()),
    "last-applied annotation": (
        "s.json",
        json.dumps({**CONFIG_OBJECT, "metadata": {"annotations": {_LAST: JSON.decode()}}}).encode(),
    ),
    "last-applied annotation in yaml": (
        "s.yaml",
        f"kind: Other\nmetadata:\n  annotations:\n    {_LAST}: |\n      {JSON.decode()}\n".encode(),
    ),
    "json as a text": ("s.json", json.dumps(JSON.decode().replace('"Secret"', '"\\u0053ecret"')).encode()),
    "second object of a line": ("s.log", b"at {here} " + JSON + b"\n"),
    "yaml in a config map": ("s.json", _inside(_TEXT)),
    "yaml in a config map, as a block": (
        "s.yaml",
        b"kind: ConfigMap\ndata:\n  s.yaml: |\n    " + YAML.replace(b"\n", b"\n    "),
    ),
    "list in a config map": ("s.json", _inside(json.dumps({"kind": "List", "items": [OBJECT]}))),
    "escapes in a config map": ("s.json", _inside(JSON.decode().replace('"Secret"', '"\\u0053ecret"'))),
    "json in json in json": ("s.json", _inside(json.dumps({"x": json.dumps({"y": JSON.decode()})}))),
    "escaped escapes": (
        "s.json",
        _inside(JSON.decode().replace('"Secret"', '"\\u0053ecret"')).replace(b"\\\\u0053", b"\\u005cu0053"),
    ),
    "utf-16 in a config map": ("s.json", _inside(_TEXT.encode("utf-16-be").decode("latin-1"))),
    "base64 in a config map": ("s.json", _inside(base64.b64encode(YAML).decode())),
    "wrapped base64 in a config map": (
        "s.yaml",
        f"kind: ConfigMap\nbinaryData:\n  s: |\n{_wrapped(YAML, 64)}\n".encode(),
    ),
    "base64 with escaped line ends": ("s.json", _inside(_wrapped(JSON, 76, ""))),
    "base64 of base64": ("s.json", _inside(base64.b64encode(base64.b64encode(JSON)).decode())),
    "url-safe base64": (
        "s.json",
        _inside(base64.urlsafe_b64encode("\u00ff\u00fe".encode() + YAML).decode().rstrip("=")),
    ),
    "helm's release": ("s.json", _inside(base64.b64encode(gzip.compress(json.dumps(_HELM).encode())).decode())),
    "base64 in a text": ("s.txt", b"the backup: " + base64.b64encode(YAML) + b"\n"),
    "comments": ("s.yaml", CONFIG + b"# " + YAML.replace(b"\n", b"\n# ") + b"\n"),
    "embedded in a log line": ("s.log", b"I0101 10:00:00 PUT " + JSON + b" 200\n"),
    # Invalid documents
    "template": ("s.yaml", b"{{- if .Values.on }}\n" + YAML + b"{{- end }}\n"),
    "toml": ("s.toml", f'kind = "Secret"\n[data]\np = "{_ENCODED}"\n'.encode()),
    "tabs as indentation": ("s.yaml", YAML.replace(b"  password", b"\tpassword")),
    "json cut short": ("s.json", JSON[:-12]),
    "yaml cut short": ("s.yaml", YAML[:-40] + b'x: "open\n'),
    "json with comments": ("s.json", JSON.replace(b", ", b", // note: [\n")),
    "escapes that cannot be parsed": ("s.json", JSON.replace(b'"Secret"', b'"\\u0053ecret"')[:-12]),
    "a document in a fence": ("s.md", b"# Restore: [this\n```yaml\n" + YAML + b"```\n"),
    "deep nesting": ("s.json", b"[" * 3000 + JSON + b"]" * 3000),
}

HARMLESS: Final[dict[str, tuple[str, bytes]]] = {
    "empty": ("x.yaml", b""),
    "config map": ("x.yaml", CONFIG),
    "config map named Secret": (
        "x.yaml",
        b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Secret}\ndata: {kind: Secret, a: b}\n",
    ),
    "config map with the word": ("x.yaml", b"kind: ConfigMap\ndata: {secretName: Secret, note: 'kind: Secret'}\n"),
    "config map in json": ("x.json", json.dumps({**CONFIG_OBJECT, "metadata": {"name": "Secret"}}).encode()),
    "sealed secret": (
        "x.yaml",
        (
            b"apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: db}\nspec:\n  encryptedData: {password: AgBy3i4OJSWK+PiTySYZZA9rO43cGDEq}\n"
            b"  template:\n    type: Opaque\n    metadata: {name: db}\n    data: {user: app}\n"
        ),
    ),
    "external secret": (
        "x.yaml",
        (
            b"apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {name: db}\nspec:\n  secretStoreRef: {kind: SecretStore, name: vault}\n"
            b"  target: {name: db, template: {type: Opaque, data: {a: '{{ .a }}'}}}\n  data:\n  - secretKey: password\n    remoteRef: {key: db, property: password}\n"
        ),
    ),
    "secret store": (
        "x.yaml",
        b"kind: SecretStore\nspec: {provider: {vault: {auth: {tokenSecretRef: {name: t, kind: Secret}}}}}\n",
    ),
    "role": (
        "x.yaml",
        b'kind: Role\nrules:\n- apiGroups: [""]\n  resources: [secrets, configmaps]\n  resourceNames: [Secret]\n  verbs: [get]\n',
    ),
    "role binding": (
        "x.yaml",
        b"kind: RoleBinding\nsubjects:\n- {kind: ServiceAccount, name: Secret}\nroleRef: {kind: Role, name: secret-reader}\n",
    ),
    "deployment with a volume": (
        "x.yaml",
        (
            b"kind: Deployment\nspec:\n  template:\n    spec:\n      volumes:\n      - name: tls\n        secret: {secretName: tls}\n      - secret:\n          secretName: x\n"
            b"      containers:\n      - env:\n        - name: P\n          valueFrom: {secretKeyRef: {name: db, key: p}}\n"
        ),
    ),
    "service account": ("x.yaml", b"kind: ServiceAccount\nsecrets:\n- name: token\nimagePullSecrets:\n- name: pull\n"),
    "crd": (
        "x.yaml",
        (
            b"kind: CustomResourceDefinition\nspec:\n  names: {kind: Vault, plural: vaults}\n  versions:\n  - schema:\n      openAPIV3Schema:\n        properties:\n"
            b"          ref:\n            properties:\n              kind: {type: string, enum: [Secret, ConfigMap], default: Secret}\n              data: {type: object}\n"
        ),
    ),
    "crd with the word in a description": (
        "x.yaml",
        (
            b"kind: CustomResourceDefinition\nspec:\n  x:\n    properties:\n      kind:\n        description: |-\n          Kind is the kind.\n          kind: Secret is the default.\n"
            b"        type: string\n      data: {type: object}\n"
        ),
    ),
    "owner reference": (
        "x.yaml",
        b"kind: Pod\nmetadata:\n  ownerReferences:\n  - {apiVersion: v1, kind: Secret, name: db, uid: 1-2}\n",
    ),
    "event about one": (
        "x.json",
        b'{"kind":"Event","involvedObject":{"apiVersion":"v1","kind":"Secret","name":"db"},"message":"no Secret"}',
    ),
    "gateway": (
        "x.yaml",
        b"kind: Gateway\nspec: {listeners: [{tls: {certificateRefs: [{group: '', kind: Secret, name: tls}]}}]}\n",
    ),
    "argo's application": (
        "x.yaml",
        b"kind: Application\nspec:\n  ignoreDifferences:\n  - group: ''\n    kind: Secret\n    jsonPointers: [/data]\n",
    ),
    "admission review": (
        "x.json",
        b'{"kind":"AdmissionReview","request":{"kind":{"group":"","version":"v1","kind":"Secret"},"operation":"DELETE"}}',
    ),
    "kustomization": (
        "x.yaml",
        b"kind: Kustomization\npatches:\n- target: {kind: Secret, name: db}\n  path: p.yaml\nsecretGenerator:\n- name: a\n",
    ),
    "policy": (
        "x.yaml",
        b"kind: ClusterPolicy\nspec: {rules: [{match: {any: [{resources: {kinds: [Secret]}}]}, validate: {pattern: {data: '?*'}}}]}\n",
    ),
    "resource list of names": (
        "x.json.gz",
        gzip.compress(b'{"v1/Secret":["shop/db","shop/tls"],"v1/Pod":["shop/web"]}'),
    ),
    "crd's names": (
        "x.yaml",
        b"kind: CustomResourceDefinition\nspec: {names: {kind: Secret, listKind: SecretList, plural: secrets}}\n",
    ),
    "prose": ("x.txt", b"A Secret is not encrypted. Keep every Secret out of git: kind: Secret objects hold data.\n"),
    "prose with a colon": (
        "x.md",
        b"# Notes\n\n* kind: Secret and its data: never commit them.\n* Secret: see above\n",
    ),
    "the word alone": ("x", b"Secret\n"),
    "comment with the word": ("x.yaml", b"# The Secret is elsewhere: kind: Secret\n" + CONFIG),
    "certificate": (
        "x.pem",
        b"-----BEGIN CERTIFICATE-----\n"
        + _wrapped(random.Random(2).randbytes(900), 64, "").encode()
        + b"\n-----END CERTIFICATE-----\n",
    ),
    "base64 of a config map": ("x.json", _inside(base64.b64encode(CONFIG * 3).decode())),
    "helm's release without one": (
        "x.json",
        _inside(base64.b64encode(gzip.compress(json.dumps({"manifest": CONFIG.decode()}).encode())).decode()),
    ),
    "random bytes": ("x.bin", random.Random(3).randbytes(200_000)),
    "zeros": ("x.bin", bytes(100_000)),
    "png": ("x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + random.Random(4).randbytes(5000)),
    "program": (
        "x",
        b"\x7fELF\x02\x01\x01" + bytes(60) + b"kind\0Secret\0data\0SecretList\0" + random.Random(5).randbytes(3000),
    ),
    "database": ("x.db", b"SQLite format 3\0" + bytes(80) + b"CREATE TABLE secret (kind TEXT, data BLOB)" + bytes(300)),
    "broken gzip": ("x.gz", b"\x1f\x8b\x08\0" + random.Random(6).randbytes(500)),
    "gzip of a config map": ("x.gz", gzip.compress(CONFIG)),
    "tar of harmless files": (
        "x.tar.gz",
        packed({"a.yaml": CONFIG, "b.bin": random.Random(7).randbytes(3000)}, "w:gz"),
    ),
    "zip of harmless files": ("x.zip", zipped({"a.yaml": CONFIG, "Secret": b"Secret"})),
    "utf-16 config map": ("x.yaml", CONFIG.decode().encode("utf-16")),
    "protobuf of a config map": ("x.db", _protobuf(b"ConfigMap", b"fast")),
    "invalid yaml": ("x.yaml", b"kind: [Secret\nfoo: }\n"),
    "template of a config map": ("x.yaml", b"{{- if .on }}\n" + CONFIG + b"{{- end }} # not a Secret\n"),
    "windows paths": ("x.yaml", b'kind: ConfigMap\ndata: {p: "C:\\\\secret\\\\data", q: "\\u003cSecret\\u003e"}\n'),
}
