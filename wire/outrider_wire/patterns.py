"""Regular expressions whose matching takes time linear in the text, whoever wrote them. Knows nothing of what they are for.

A subset of the usual syntax: characters, ``.``, classes, ``\\d \\w \\s`` and their opposites, groups, ``|``, ``* + ? {m,n}``, and
``(?i)`` in front. No anchors, no look-around and no back-references: what is left is regular, so that a set of states walks
along the text (Thompson 1968), and no text makes it go back.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

AHEAD = 256
"""Characters that are looked at beyond what is matched so far, for more of the same match. A match may be of any length."""
MOST_CHARACTERS = 256
"""Of an expression."""
MOST_STATES = 512
MOST_KNOWN = 32_768
"""Steps that are remembered; when there are more, all are forgotten: time is then lost, and memory is not."""

_CLASSES = {name: re.compile(f"\\{name}") for name in "dDwWsS"}
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
_COUNTS = re.compile(r"\{(\d{1,3})(?:(,)(\d{1,3})?)?\}")
_SPECIAL = frozenset("*+?{}|()[]^$\\.")


class Pattern(Protocol):
    """What finds spans in a text."""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of every match, from left to right, the longest at each start, none overlapping."""
        ...


class Expression:
    """One compiled expression. Several threads may use it: what they add to what is known is the same, whoever comes first.

    Raises:
        ValueError: it is not of the subset, is too large, or matches the empty text.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MOST_CHARACTERS:
            raise ValueError(f"it has {len(source)} characters, more than {MOST_CHARACTERS}")
        graph = _Parser(source).graph()
        self._ahead = _Walk(graph, begin=_Graph.BEGIN, end=_Graph.END)
        self._back = _Walk(graph.reversed(), begin=_Graph.END, end=_Graph.BEGIN)
        if self._ahead.first.accepts:
            raise ValueError("it matches the empty text")

    @property
    def steps(self) -> int:
        """Steps that are remembered, in both directions."""
        return self._ahead.steps + self._back.steps

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """As `Pattern.spans`."""
        at = 0
        while (found := self._first_end(text, at)) > at:
            start = self._start(text, at, found)
            end = self._end(text, start, found)
            yield start, end
            at = end

    def _first_end(self, text: str, start: int) -> int:
        """Where a match ends that began at ``start`` or later, the first that does; −1: none does."""
        state = self._ahead.first
        for at in range(start, len(text)):
            state = state.afloat.get(text[at]) or self._ahead.step(state, text[at], afloat=True)
            if state.accepts:
                return at + 1
        return -1

    def _start(self, text: str, least: int, end: int) -> int:
        """The earliest place, from ``least`` on, where a match begins that ends at ``end``. What is walked back over is walked once."""
        state, start = self._back.first, end
        for at in range(end - 1, least - 1, -1):
            state = state.next.get(text[at]) or self._back.step(state, text[at])
            if state.accepts:
                start = at
            if not state.members:
                break
        return start

    def _end(self, text: str, start: int, found: int) -> int:
        """Where the longest match from ``start`` ends, ``found`` or later, as far as `AHEAD` lets it see."""
        state, end = self._ahead.first, found
        for at in range(start, len(text)):
            state = state.next.get(text[at]) or self._ahead.step(state, text[at])
            if state.accepts:
                end = max(end, at + 1)
            if not state.members or at - end >= AHEAD:
                break
        return end


class _Walk:
    """A graph on which all ways are gone at once: sets of places are its states, and are remembered."""

    def __init__(self, graph: "_Graph", *, begin: int, end: int) -> None:
        self._graph = graph
        self._begin = begin
        self._end = end
        self._known: dict[frozenset[int], _State] = {}
        self.steps = 0
        """Of those that are remembered."""
        self.first = self._state(frozenset([begin]))

    def step(self, state: "_State", character: str, *, afloat: bool = False) -> "_State":
        """Where a character leads; ``afloat``: where another match may begin at it."""
        if self.steps >= MOST_KNOWN:
            self._known.clear()
            self.steps = 0
            self.first = self._state(frozenset([self._begin]))
        members = frozenset(
            edge.target for member in state.members for edge in self._graph.edges[member] if edge.takes(character)
        )
        following = self._state(members | {self._begin} if afloat else members)
        (state.afloat if afloat else state.next)[character] = following
        self.steps += 1
        return following

    def _state(self, members: frozenset[int]) -> "_State":
        closed = self._graph.closed(members)
        if (known := self._known.get(closed)) is None:
            known = self._known[closed] = _State(members=closed, accepts=self._end in closed)
        return known


@dataclass(eq=False)
class _State:
    """A set of places in the expression, and where each character that has been met leads."""

    members: frozenset[int]
    accepts: bool
    next: dict[str, "_State"] = field(default_factory=dict)
    afloat: dict[str, "_State"] = field(default_factory=dict)
    """The same where another match may begin at any character."""


@dataclass(frozen=True)
class _Edge:
    """Takes one character: one of ``ranges`` or of a named class, or (``negated``) none of these."""

    target: int
    ranges: tuple[tuple[str, str], ...]
    named: tuple[str, ...]
    negated: bool
    ignore_case: bool

    def takes(self, character: str) -> bool:
        forms = {character, character.lower(), character.upper()} if self.ignore_case else {character}
        found = any(low <= form <= high for form in forms for low, high in self.ranges if len(form) == 1)
        return (found or any(_CLASSES[name].match(character) for name in self.named)) != self.negated


class _Graph:
    """Places, what a character leads to from each, and what is reached for nothing."""

    BEGIN, END = 0, 1

    def __init__(self) -> None:
        self.edges: list[list[_Edge]] = [[], []]
        self.free: list[list[int]] = [[], []]

    def place(self) -> int:
        if len(self.edges) >= MOST_STATES:
            raise ValueError(f"it is too large: with its counts written out it has more than {MOST_STATES} states")
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def reversed(self) -> "_Graph":
        """The same with every way turned round."""
        turned = _Graph()
        turned.edges, turned.free = [[] for _ in self.edges], [[] for _ in self.free]
        for place, (edges, free) in enumerate(zip(self.edges, self.free, strict=True)):
            for edge in edges:
                turned.edges[edge.target].append(replace(edge, target=place))
            for target in free:
                turned.free[target].append(place)
        return turned

    def closed(self, members: frozenset[int]) -> frozenset[int]:
        """These places and all that are reached from them for nothing."""
        found, waiting = set(members), list(members)
        while waiting:
            for place in self.free[waiting.pop()]:
                if place not in found:
                    found.add(place)
                    waiting.append(place)
        return frozenset(found)


@dataclass(frozen=True)
class _One:
    """One character."""

    ranges: tuple[tuple[str, str], ...] = ()
    named: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class _Row:
    """One after the other."""

    items: tuple["_Node", ...]


@dataclass(frozen=True)
class _Either:
    """Any of them."""

    options: tuple["_Node", ...]


@dataclass(frozen=True)
class _Repeat:
    """``least`` to ``most`` times; None: without end."""

    item: "_Node"
    least: int
    most: int | None


_Node = _One | _Row | _Either | _Repeat


class _Parser:
    """By recursive descent; the depth is bounded by `MOST_CHARACTERS`."""

    def __init__(self, source: str) -> None:
        self._ignore_case = source.startswith("(?i)")
        self._text = source.removeprefix("(?i)")
        self._at = 0

    def graph(self) -> _Graph:
        """The whole expression."""
        tree = self._either()
        if self._at < len(self._text):
            raise ValueError("a ) closes nothing")
        graph = _Graph()
        self._join(graph, tree, _Graph.BEGIN, _Graph.END)
        return graph

    def _join(self, graph: _Graph, node: _Node, start: int, end: int) -> None:
        """Leads from ``start`` to ``end`` through ``node``."""
        match node:
            case _One():
                edge = _Edge(end, node.ranges, node.named, node.negated, self._ignore_case)
                graph.edges[start].append(edge)
            case _Row():
                for item in node.items:
                    following = graph.place()
                    self._join(graph, item, start, following)
                    start = following
                graph.free[start].append(end)
            case _Either():
                for option in node.options:
                    entry = graph.place()
                    graph.free[start].append(entry)
                    self._join(graph, option, entry, end)
            case _Repeat():
                self._repeat(graph, node, start, end)

    def _repeat(self, graph: _Graph, node: _Repeat, start: int, end: int) -> None:
        for _ in range(node.least):
            following = graph.place()
            self._join(graph, node.item, start, following)
            start = following
        if node.most is None:
            loop = graph.place()
            graph.free[start].append(loop)
            self._join(graph, node.item, loop, loop)
            start = loop
        for _ in range((node.most or node.least) - node.least):
            graph.free[start].append(end)
            following = graph.place()
            self._join(graph, node.item, start, following)
            start = following
        graph.free[start].append(end)

    def _either(self) -> _Node:
        options = [self._row()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._row())
        return options[0] if len(options) == 1 else _Either(tuple(options))

    def _row(self) -> _Node:
        items: list[_Node] = []
        while (character := self._peek()) and character not in "|)":
            items.append(self._repeated(self._one()))
        return _Row(tuple(items))

    def _repeated(self, item: _Node) -> _Node:
        character = self._peek()
        if character in ("*", "+", "?"):
            self._at += 1
            node = _Repeat(item, int(character == "+"), 1 if character == "?" else None)
        elif counts := _COUNTS.match(self._text, self._at):
            self._at = counts.end()
            least = int(counts[1])
            most = int(counts[3]) if counts[3] else None if counts[2] else least
            if most is not None and not 0 < most >= least:
                raise ValueError(f"{counts[0]} counts nothing")
            node = _Repeat(item, least, most)
        else:
            return item
        if self._peek() in ("*", "+", "?", "{"):
            raise ValueError("a count follows a count; put the first one in a group")
        return node

    def _one(self) -> _Node:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escaped()
        if character == ".":
            return _One(ranges=(("\n", "\n"),), negated=True)
        if character in _SPECIAL:
            raise ValueError(f"{character!r} has no meaning there; write \\{character} for the character")
        return _One(ranges=((character, character),))

    def _group(self) -> _Node:
        if self._peek() == "?":
            if not self._text.startswith("?:", self._at):
                raise ValueError("groups are ( ) or (?: ); look-around, names and flags are not read")
            self._at += 2
        node = self._either()
        if self._peek() != ")":
            raise ValueError("a ( is never closed")
        self._at += 1
        return node

    def _class(self) -> _Node:
        negated = self._peek() == "^"
        self._at += int(negated)
        ranges: list[tuple[str, str]] = []
        named: list[str] = []
        while (character := self._next()) != "]":
            one = self._escaped() if character == "\\" else _One(ranges=((character, character),))
            named += one.named
            if one.ranges and self._text.startswith("-", self._at) and self._peek(1) not in ("]", ""):
                self._at += 1
                last = self._next()
                high = self._escaped() if last == "\\" else _One(ranges=((last, last),))
                if not high.ranges or high.ranges[0][0] < one.ranges[0][0]:
                    raise ValueError("a range in [ ] runs backwards")
                ranges.append((one.ranges[0][0], high.ranges[0][0]))
            else:
                ranges += one.ranges
        if not ranges and not named:
            raise ValueError("[] takes nothing")
        return _One(tuple(ranges), tuple(named), negated)

    def _escaped(self) -> _One:
        character = self._next()
        if character in _CLASSES:
            return _One(named=(character,))
        if character in _ESCAPES:
            return _One(ranges=((_ESCAPES[character], _ESCAPES[character]),))
        if character.isalnum():
            raise ValueError(f"\\{character} is not read: no anchors, no back-references")
        return _One(ranges=((character, character),))

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _next(self) -> str:
        if not (character := self._peek()):
            raise ValueError("it ends too early")
        self._at += 1
        return character
