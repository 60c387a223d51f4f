"""Entity linking: candidates for a mention, and features of every candidate.

A mention is compared with the name of a candidate by its letters, its context with what the
candidate is (description or types) by the encoder and by words. Labels say which entities are
linked often, and what types of entity stand in such a context.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meld_duckdb import safe_json
from meld_duckdb.features.choose import Matrix, fit_weights, option_words, probabilities
from meld_duckdb.features.text import IdfWeights, fold, grams, tfidf_matrices, words

Embed = Callable[[Sequence[str]], np.ndarray]

FEATURES = (
    "equal name",
    "letters of the name",
    "name in the mention",
    "mention in the name",
    "meaning of the context",
    "words of the context",
    "linked before",
    "mention linked before",
    "types in such a context",
    "rivals by name",
    "is a candidate",
)

_NAME_COLUMNS = ("name", "label", "title", "entity", "alias", "aliases")
_DESCRIPTION_COLUMNS = ("description", "text", "abstract", "summary")
_TYPE_COLUMNS = ("types", "type", "category", "categories")
_KEY_COLUMNS = ("id", "entity_id", "qid", "url", "uri")
_ENDS_OF_A_NAME = (" is ", " was ", " are ", " were ", " (", " refers ", ": ")
_NAME_CHARS = 120
_ABOUT_CHARS = 300
_DECIMALS = 5
_NEAREST = 12


@dataclass(frozen=True, slots=True)
class Mention:
    """What stands in a cell and around it.

    Attributes:
        text: The mention, folded.
        context: What stands around it, folded.
    """

    text: str
    context: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A candidate.

    Attributes:
        key: What is answered for it.
        name: Its name, folded; of a bare text the part that looks like one.
        about: Its description or its types, folded.
        described: Whether ``about`` is a description.
        types: Its types.
    """

    key: str
    name: str
    about: str
    described: bool
    types: tuple[str, ...]


def read_mention(fields: Mapping[str, str | None]) -> Mention:
    """Read the record of a mention; a context that is JSON gives names and values as words."""
    text = html.unescape((fields.get("mention") or "")[:2000])
    context = (fields.get("context") or "")[:4000]
    return Mention(fold(text, 300), fold(html.unescape(_spoken(context)), 600))


def read_entity(key: str, fields: Mapping[str, str | None]) -> Entity:
    """Read the record of a candidate."""
    low = {name.lower(): value or "" for name, value in fields.items()}
    described = next((low[c] for c in _DESCRIPTION_COLUMNS if low.get(c)), "")
    if not described:
        known = (*_NAME_COLUMNS, *_TYPE_COLUMNS, *_KEY_COLUMNS)
        described = " ".join(v for c, v in low.items() if c not in known and v)
    described = html.unescape(described[:4000])
    types = tuple(dict.fromkeys(t for c in _TYPE_COLUMNS for t in _listed(low.get(c, ""))))[:32]
    name = next((low[c] for c in _NAME_COLUMNS if low.get(c)), "") or _head(described) or key
    about = described or " ".join(option_words(t) for t in types)
    return Entity(
        key,
        fold(html.unescape(name[:1000]), _NAME_CHARS),
        fold(about, _ABOUT_CHARS),
        bool(described),
        types,
    )


def _head(text: str) -> str:
    """The start of a description, up to where it says what the thing is."""
    start = text[:_NAME_CHARS]
    ends = [at for at in (start.find(mark) for mark in _ENDS_OF_A_NAME) if at > 0]
    return start[: min(ends, default=_NAME_CHARS)]


def _spoken(context: str) -> str:
    try:
        row = safe_json.loads(context) if context[:1] in "{[" else context
    except ValueError:
        return context
    if isinstance(row, dict):
        return " ".join(f"{name} {value}" for name, value in row.items() if value is not None)
    return " ".join(map(str, row)) if isinstance(row, list) else context


def _listed(text: str) -> list[str]:
    try:
        found = safe_json.loads(text[:4000]) if text[:1] == "[" else [text]
    except ValueError:
        found = [text]
    return [str(t) for t in found if t is not None and str(t).strip()]


class EntityCandidates:
    """Finds the entities of a catalogue whose names are like a mention.

    Args:
        names: Names of the entities; any may occur twice.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [fold(name, _NAME_CHARS) for name in names]
        self._exact: dict[str, list[int]] = {}
        for i, name in enumerate(self._names):
            self._exact.setdefault(name, []).append(i)

    def top(self, mentions: Sequence[str], k: int) -> list[list[int]]:
        """Positions of the ``k`` likeliest entities of each mention, best first.

        Equal names come first, then 3-grams and words in common; names that have nothing in
        common with the mention are left out.
        """
        folded = [fold(mention, 300) for mention in mentions]
        distinct = list(dict.fromkeys(folded))
        found: dict[str, list[int]] = {}
        if k < 1 or not self._names:
            return [[] for _ in mentions]
        for start in range(0, len(distinct), 256):
            part = distinct[start : start + 256]
            for mention, scores in zip(part, self._scores(part), strict=True):
                exact = self._exact.get(mention, []) if mention else []
                scores[exact] += 10.0
                top = np.argsort(-scores, kind="stable")[:k]
                found[mention] = [int(i) for i in top if scores[i] > 0]
        return [found[mention] for mention in folded]

    def _scores(self, mentions: Sequence[str]) -> Matrix:
        total = np.zeros((len(mentions), len(self._names)))
        for split, weight in ((grams, 1.0), (words, 1.0)):
            names, asked = tfidf_matrices(
                (split(name) for name in self._names),
                (split(mention) for mention in mentions),
                least=1,
            )
            total += weight * np.asarray((asked @ names.T).toarray(), dtype=float)
        return total.round(_DECIMALS)


class LinkMemory:
    """What labels say: who is linked, and which types stand in which context.

    Args:
        mentions: Labelled mentions.
        linked: The entity each means, None for none of its candidates.
    """

    def __init__(self, mentions: Sequence[Mention], linked: Sequence[Entity | None]) -> None:
        self._mentions = list(mentions)
        self._linked = list(linked)
        self._entities = Counter(e.key for e in linked if e)
        self._pairs = Counter((m.text, e.key) for m, e in zip(mentions, linked, strict=True) if e)
        documents = [words(m.context) for m in mentions]
        documents += [words(f"{e.name} {e.about}") for e in linked if e]
        self.weights = IdfWeights.from_documents(documents) if documents else None
        self._holds: dict[str, list[int]] = {}
        for i, mention in enumerate(mentions):
            for word in sorted(set(words(mention.context))):
                self._holds.setdefault(word, []).append(i)
        self._types = Counter(t for e in linked if e for t in e.types)

    def linked(self, entity: Entity, left_out: tuple[Mention, Entity | None] | None) -> float:
        """How often an entity is linked, as a logarithm; one label can be left out."""
        own = left_out is not None and left_out[1] is not None and left_out[1].key == entity.key
        return float(np.log1p(self._entities[entity.key] - own))

    def paired(
        self, mention: Mention, entity: Entity, left_out: tuple[Mention, Entity | None] | None
    ) -> float:
        """How often an entity is linked for this very mention, as a logarithm."""
        count = self._pairs[(mention.text, entity.key)]
        if left_out is not None and left_out[1] is not None:
            count -= left_out[1].key == entity.key and left_out[0].text == mention.text
        return float(np.log1p(count))

    def types(self, mention: Mention, skip: int | None = None) -> dict[str, float]:
        """Share of the labelled mentions in the most similar contexts that have each type."""
        if not self._types or self.weights is None:
            return {}
        scores: dict[int, float] = {}
        for word in sorted(set(words(mention.context))):
            weight = self.weights.weight(word) ** 2
            for i in self._holds.get(word, ()):
                if i != skip:
                    scores[i] = scores.get(i, 0.0) + weight
        nearest = sorted(scores, key=lambda i: (-scores[i], i))[:_NEAREST]
        shares: dict[str, float] = {}
        total = 1e-9
        for i in nearest:
            entity = self._linked[i]
            if entity is not None:
                total += scores[i]
                for t in entity.types:
                    shares[t] = shares.get(t, 0.0) + scores[i]
        return {t: share / total for t, share in shares.items()}


def link_features(
    mention: Mention,
    entities: Sequence[Entity],
    meaning: Sequence[float],
    memory: LinkMemory | None,
    skip: int | None = None,
    left_out: tuple[Mention, Entity | None] | None = None,
) -> Matrix:
    """Describe every candidate of a mention.

    Args:
        mention: The mention.
        entities: Its candidates.
        meaning: Encoder cosine of the mention's context and each candidate.
        memory: What labels say.
        skip: Position of the label that this mention is, which is no evidence for itself.
        left_out: The same label.

    Returns:
        float64 [entities, features]
    """
    weights = memory.weights if memory else None
    said, near = words(mention.text), words(mention.context)
    mention_grams = grams(mention.text)
    around = set(said) | set(near)
    types = memory.types(mention, skip) if memory else {}
    rows = np.zeros((len(entities), len(FEATURES)))
    for i, entity in enumerate(entities):
        name = words(entity.name)
        name_grams = grams(entity.name)
        shared = len(mention_grams & name_grams)
        rows[i, 0] = mention.text == entity.name and bool(entity.name)
        rows[i, 1] = 2 * shared / max(len(mention_grams) + len(name_grams), 1)
        rows[i, 2] = _share(name, set(said), weights)
        rows[i, 3] = _share(said, set(name), weights)
        rows[i, 4] = max(float(meaning[i]), 0.0)
        rows[i, 5] = _share(words(entity.about)[:60], around, weights)
        if memory:
            rows[i, 6] = memory.linked(entity, left_out)
            rows[i, 7] = memory.paired(mention, entity, left_out)
            rows[i, 8] = max((types.get(t, 0.0) for t in entity.types), default=0.0)
    alike = rows[:, 0] + rows[:, 1]
    for i in range(len(entities)):
        rows[i, 9] = -np.log1p(float((alike > alike[i] + 1e-9).sum()))
    rows[:, 10] = 1.0
    return rows.round(_DECIMALS)


def _share(asked: Sequence[str], held: set[str], weights: IdfWeights | None) -> float:
    """Share of words that are among others, each by its weight."""
    distinct = sorted(set(asked))
    weighed = [weights.weight(w) + 0.05 if weights else 1.0 for w in distinct]
    total = sum(weighed)
    found = sum(x for w, x in zip(distinct, weighed, strict=True) if w in held)
    return found / total if total else 0.0


PRIOR = np.array([4.0, 3.8, 5.7, 1.7, 3.3, 0.3, 0.3, 1.5, 3.0, 0.1, -8.9])
"""Weights without any label. Fitted to training mentions of the benchmark data, then rounded."""

_LOWER = np.array([0.0] * 10 + [-np.inf])
MOST_LABELS = 3_000
"""Labelled mentions that are learned from, the first ones."""


@dataclass(frozen=True, slots=True)
class LinkQuestion:
    """A mention, its candidates, and (for a label) the position of the one it means."""

    mention: Mention
    entities: tuple[Entity, ...]
    right: int | None = None


class LinkModel:
    """Chooses the entity of a mention, or none.

    Args:
        labels: Labelled questions; may be empty. ``right`` None means none of the candidates.
        embed: Texts to vectors, float32 [n, d], L2-normalised.
    """

    def __init__(self, labels: Sequence[LinkQuestion], embed: Embed) -> None:
        self._embed = embed
        self.weights = PRIOR
        self._memory: LinkMemory | None = None
        labels = [q for q in labels[:MOST_LABELS] if q.entities]
        if labels:
            linked = [None if q.right is None else q.entities[q.right] for q in labels]
            mentions = [q.mention for q in labels]
            self._memory = LinkMemory(mentions, linked)
            meaning = self._meaning(labels)
            questions = []
            for i, q in enumerate(labels):
                left = (q.mention, linked[i])
                rows = link_features(q.mention, q.entities, meaning[i], self._memory, i, left)
                questions.append(np.vstack([rows, np.zeros(len(FEATURES))]))
            right = [len(q.entities) if q.right is None else q.right for q in labels]
            self.weights = fit_weights(questions, right, PRIOR, _LOWER)

    def score(self, questions: Sequence[LinkQuestion]) -> list[tuple[Matrix, Matrix]]:
        """Probabilities of the candidates, and what each feature adds to them.

        Returns:
            (float64 [entities], sum at most 1, the rest is for none of them;
            float64 [entities, features]), per question.
        """
        found = []
        for q, meaning in zip(questions, self._meaning(questions), strict=True):
            rows = link_features(q.mention, q.entities, meaning, self._memory)
            shares = probabilities(np.vstack([rows, np.zeros(len(FEATURES))]), self.weights)
            found.append((shares[:-1], rows * self.weights))
        return found

    def _meaning(self, questions: Sequence[LinkQuestion]) -> list[list[float]]:
        """Encoder cosines of context and candidate; with the mention where it is described."""
        pairs = [
            (f"{q.mention.text} {q.mention.context}" if e.described else q.mention.context, e.about)
            for q in questions
            for e in q.entities
        ]
        if not pairs:
            return [[] for _ in questions]
        number = {text: i for i, text in enumerate(dict.fromkeys(t for p in pairs for t in p))}
        vectors = np.asarray(self._embed(list(number)), dtype=np.float64)
        cosines = [
            round(float(vectors[number[a]] @ vectors[number[b]]), _DECIMALS) if a and b else 0.0
            for a, b in pairs
        ]
        ends = np.cumsum([len(q.entities) for q in questions]).tolist()
        return [
            cosines[end - len(q.entities) : end] for q, end in zip(questions, ends, strict=True)
        ]
