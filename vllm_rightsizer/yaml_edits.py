"""Changes made to a YAML document in place, so that comments, order and quotes of everything else survive."""

from __future__ import annotations

from typing import Any, TypeAlias

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

Node: TypeAlias = Any
_Leaf: TypeAlias = tuple[CommentedMap | CommentedSeq, Any]
"""A collection and one of its keys or indices."""

_EOL_SLOT = {CommentedMap: 2, CommentedSeq: 0}
"""Where ruamel keeps what stands behind an element: the rest of its line, and the comment lines below it."""


def graft(node: Node, wanted: Any) -> None:
    """Make the collection `node` equal to `wanted`, touching only what differs."""
    if isinstance(node, CommentedMap):
        for key in [key for key in node if key not in wanted]:
            del node[key]
        added = {key: value for key, value in wanted.items() if key not in node}
        _graft_elements(node, {key: wanted[key] for key in node})
        below = _take_comment_below(node) if added else ""
        for key, value in added.items():
            node[key] = _commented(value)
    else:
        del node[len(wanted) :]
        _graft_elements(node, dict(enumerate(wanted[: len(node)])))
        new = wanted[len(node) :]
        below = _take_comment_below(node) if new else ""
        node.extend(_commented(value) for value in new)
    if below:
        _put_comment_below(node, below)


def _graft_elements(node: Node, wanted: dict[Any, Any]) -> None:
    for key, value in wanted.items():
        same_kind = (isinstance(node[key], CommentedMap) and isinstance(value, dict)) or (
            isinstance(node[key], CommentedSeq) and isinstance(value, list)
        )
        if same_kind:
            graft(node[key], value)
        elif node[key] != value:
            node[key] = _commented(value)


def _commented(value: Any) -> Any:
    if isinstance(value, dict):
        return CommentedMap((key, _commented(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return CommentedSeq(_commented(inner) for inner in value)
    return value


def _last_leaf(node: Node) -> _Leaf | None:
    """The element that is written last in the block `node`; None where `node` is empty or written in one line."""
    leaf: _Leaf | None = None
    while isinstance(node, (CommentedMap, CommentedSeq)) and node and not node.fa.flow_style():
        key = list(node)[-1] if isinstance(node, CommentedMap) else len(node) - 1
        leaf, node = (node, key), node[key]
    return leaf


def _take_comment_below(node: Node) -> str:
    """Comment and blank lines below `node`'s last line, which speak of what follows: taken off, to go further down."""
    leaf = _last_leaf(node)
    if leaf is None:
        return ""
    parent, key = leaf
    slots = parent.ca.items.get(key)
    token = slots[_EOL_SLOT[type(parent)]] if slots else None
    if token is None:
        return ""
    same_line, newline, below = token.value.partition("\n")
    if same_line:
        token.value = same_line + newline
    else:
        slots[_EOL_SLOT[type(parent)]] = None
    return str(below)


def _put_comment_below(node: Node, below: str) -> None:
    leaf = _last_leaf(node)
    if leaf is None:
        return
    parent, key = leaf
    slots = parent.ca.items.setdefault(key, [None, None, None, None])
    slots[_EOL_SLOT[type(parent)]] = CommentToken("\n" + below, start_mark=CommentMark(0), end_mark=None)
