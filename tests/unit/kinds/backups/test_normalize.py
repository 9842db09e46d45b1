"""Fields that change by themselves are cut from Kubernetes objects, and nothing else changes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.kinds.backups.normalize import Normalizer
from syncline.kinds.backups.object_fields import DEFAULT_FIELDS, parse_field
from syncline.kinds.backups.secrets_detection import OutOfTime
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy

NORMALIZER = Normalizer()
POD = """# exported
apiVersion: v1
kind: Pod   # a comment
metadata:
  managedFields:
  - manager: kubelet
    fieldsV1: {"f:status": {}}
    time: "2026-01-01T00:00:00Z"
  # about the name
  name: 'web'
  resourceVersion: "12"
spec:
  script: |
    status: stays
    resourceVersion: stays
  status: stays
status:
  message: |
    several

    lines
  phase: Running
"""
POD_AFTER = """# exported
apiVersion: v1
kind: Pod   # a comment
metadata:
  # about the name
  name: 'web'
spec:
  script: |
    status: stays
    resourceVersion: stays
  status: stays
"""
LIST = """apiVersion: v1
items:
- status:
    phase: Running
  apiVersion: v1
  kind: Pod
  metadata:
    resourceVersion: "7"
    name: first
- apiVersion: coordination.k8s.io/v1
  kind: Lease
  metadata: {name: second, resourceVersion: "8"}
  spec: {renewTime: "now", holderIdentity: node}
kind: List
metadata:
  resourceVersion: ""
"""
LIST_AFTER = """apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: first
- apiVersion: coordination.k8s.io/v1
  kind: Lease
  metadata: {name: second}
  spec: {holderIdentity: node}
kind: List
metadata:
  {}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (POD, POD_AFTER),
        (LIST, LIST_AFTER),
        (f"{POD}---\nstatus: no object\n---\n{POD}", f"{POD_AFTER}---\nstatus: no object\n---\n{POD_AFTER}"),
        (POD.replace("\n", "\r\n"), POD_AFTER.replace("\n", "\r\n")),
        (
            '{"apiVersion":"v1","kind":"Pod","metadata":{"generation":1,"name":"€\\u00e9","selfLink":"/"},"status":{}}',
            '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"€\\u00e9"}}',
        ),
        (
            '{\n "status": {"a": "}\\""},\n "apiVersion": "v1",\n "kind": "Pod",\n "metadata": {"generation": 1},\n "a": 1.50\n}',
            '{\n "apiVersion": "v1",\n "kind": "Pod",\n "metadata": {},\n "a": 1.50\n}',
        ),
        (
            '{"kind":"LeaseList","apiVersion":"v1","metadata":{},"items":[{"metadata":{},"spec":{"renewTime":"1"}}]}',
            '{"kind":"LeaseList","apiVersion":"v1","metadata":{},"items":[{"metadata":{},"spec":{}}]}',
        ),
        (
            '[{"apiVersion":"v1","kind":"Pod","metadata":{},"status":1}]',
            '[{"apiVersion":"v1","kind":"Pod","metadata":{}}]',
        ),
        (
            '\ufeff{"apiVersion":"v1","kind":"Pod","metadata":{},"status":1}',
            '\ufeff{"apiVersion":"v1","kind":"Pod","metadata":{}}',
        ),
        (
            (
                "apiVersion: v1\nkind: Endpoints\nmetadata:\n  annotations:\n"
                "    control-plane.alpha.kubernetes.io/leader: |\n      {}\n  name: a\n"
            ),
            "apiVersion: v1\nkind: Endpoints\nmetadata:\n  annotations:\n    {}\n  name: a\n",
        ),
    ],
)
def test_only_the_fields_are_cut(before: str, after: str) -> None:
    assert NORMALIZER.apply(before.encode()).decode() == after
    assert NORMALIZER.apply(after.encode()).decode() == after


@pytest.mark.parametrize(
    "text",
    [
        b"status: here\nvalues: 1\n",
        b"apiVersion: v1\nkind: Pod\nstatus: without metadata\n",
        b'{"items": [{"metadata": {"name": "a"}, "status": 1}]}',
        b"apiVersion: a/v1\nkind: Templates\nmetadata: {name: a}\nitems:\n- metadata: {name: b}\n  status: wanted\n",
        b"apiVersion: v1\nkind: Pod\nmetadata: {a: &a 1}\nstatus: *a\n",  # with an anchor
        b"apiVersion: v1\nkind: Pod\nmetadata: {}\nstatus: [\n",  # invalid
        b"apiVersion: v1\nkind: Pod\nmetadata: {}\n? [a]\n: b\nstatus: 1\n",  # a list as key
        b'{"apiVersion": "v1", "kind": "Pod", "metadata": {}, "status": 1',
        b"apiVersion: v1\nkind: Pod\nmetadata: {}\nstatus: " + b"[" * 300 + b"]" * 300,
        b"\xff apiVersion: v1\nkind: Pod\nmetadata: {}\nstatus: 1\n",
        POD.encode("utf-16"),
        b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nspec: {renewTime: of another kind}\n",
    ],
)
def test_other_text_stays_byte_for_byte(text: bytes) -> None:
    assert NORMALIZER.apply(text) == text


def test_fields_replace_the_defaults() -> None:
    text = b"apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    a.b/c: x\n    d: y\nstatus: stays\n"
    after = Normalizer(("metadata.annotations[a.b/c]",)).apply(text)
    assert after == b"apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    d: y\nstatus: stays\n"


@pytest.mark.parametrize("text", ["", "metadata", "metadata.name", "kind", "a..b", "pod/status", "a b", "Pod/", "a[b"])
def test_a_field_that_cannot_be_dropped_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a field|cannot be dropped"):
        parse_field(text)


def test_the_end_of_the_time_is_noticed() -> None:
    text = POD.encode() + b"more:\n" + b"- a\n" * 30_000
    with pytest.raises(OutOfTime):
        NORMALIZER.apply(text, lambda: True)


def test_secrets_are_searched_in_what_stays() -> None:
    text = b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {kind: Secret, data: {a: YQ==}}\n"
    left_out = SecretsFilter(SecretsPolicy.LEAVE_OUT).apply("c/n/a", text)
    assert left_out.data is None
    kept = SecretsFilter(SecretsPolicy.LEAVE_OUT, None, NORMALIZER).apply("c/n/a", text)
    assert kept.data == b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
    secret = b"apiVersion: v1\nkind: Secret\nmetadata: {name: a, resourceVersion: '1'}\ndata: {a: YQ==}\n"
    assert SecretsFilter(SecretsPolicy.LEAVE_OUT, None, NORMALIZER).apply("c/n/a", secret).data is None


def test_the_name_of_a_filter_differs_with_the_fields() -> None:
    names = {
        SecretsFilter(SecretsPolicy.KEEP, None, each).name
        for each in (None, NORMALIZER, Normalizer(("status",)), Normalizer((*DEFAULT_FIELDS, "metadata.uid")))
    }
    assert len(names) == 4


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
KEYS = st.sampled_from(
    ["status", "metadata", "items", "kind", "managedFields", "resourceVersion", "a", "b-c", "é", "x y"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | TEXT | st.just("line\nstatus: x\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
FORMS = [
    json.dumps,
    lambda value: json.dumps(value, indent=2, ensure_ascii=False) + "\n",
    lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True),
    lambda value: yaml.safe_dump(value, default_flow_style=True, width=20),
    lambda value: yaml.safe_dump(value, default_style='"'),
]


@st.composite
def kubernetes_objects(draw: st.DrawFn) -> dict[str, Any]:
    more = draw(st.dictionaries(KEYS.filter(lambda key: key not in ("metadata", "kind", "items", "status")), VALUES))
    metadata = {"name": draw(TEXT), **draw(st.dictionaries(st.sampled_from(["labels", "uid"]), VALUES, max_size=2))}
    pairs = list({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **more}.items())
    return dict(draw(st.permutations(pairs)))


@st.composite
def changed_by_itself(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with fields that a cluster writes, in any place of its mappings."""
    value = copy.deepcopy(value)
    metadata = list(value["metadata"].items())
    for name in draw(st.lists(st.sampled_from(["managedFields", "resourceVersion", "generation"]), unique=True)):
        metadata.insert(draw(st.integers(0, len(metadata))), (name, draw(VALUES)))
    value["metadata"] = dict(metadata)
    pairs = list(value.items())
    pairs.insert(draw(st.integers(0, len(pairs))), ("status", draw(VALUES)))
    return dict(pairs)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(FORMS))
def test_an_object_with_and_without_the_fields_becomes_the_same(data: st.DataObject, form: Any) -> None:
    plain = data.draw(kubernetes_objects())
    one, two = (form(data.draw(changed_by_itself(plain))).encode() for _ in range(2))
    first, second = NORMALIZER.apply(one), NORMALIZER.apply(two)
    assert yaml.safe_load(first) == yaml.safe_load(form(plain)) == yaml.safe_load(second)
    assert NORMALIZER.apply(first) == first


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(FORMS), KEYS, VALUES)
def test_a_change_elsewhere_stays_a_change(data: st.DataObject, form: Any, key: str, value: Any) -> None:
    plain = data.draw(kubernetes_objects())
    changed = {**plain, "spec": {key: value}}
    before, after = (NORMALIZER.apply(form(data.draw(changed_by_itself(each))).encode()) for each in (plain, changed))
    assert before != after
    assert yaml.safe_load(after) == yaml.safe_load(form(changed))


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(FORMS))
def test_what_is_no_object_stays_byte_for_byte(value: Any, form: Any) -> None:
    text = form(value).encode()
    assert NORMALIZER.apply(text) == text
