"""What is asked of Wikidata, Wikipedia and a SNOMED CT server, and how their answers are read.

Pure: a service is a generator that yields requests, is sent the parsed JSON of each answer, and
returns sentences. `retrieval.remote` carries the requests out.

Paper: KcMF appendix B2: the first hit of every search, and up to three narrower concepts. Its pages
are summarised by a language model in 1,000 words; ours are cut at 1,000 characters.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from meld_duckdb.settings import Settings

VERSION = 1
"""Counts changes of what is asked and of how answers are read; part of the key of the cache."""

MAX_KEYWORD = 100
MAX_SENTENCE = 300
MAX_EXTRACT = 1_000
_MOST_STATEMENTS = 5
_MOST_CHILDREN = 3

_JSON = "application/json"
_SPARQL_JSON = "application/sparql-results+json"
_ENTITY = re.compile(r"Q[1-9][0-9]{0,11}", re.ASCII)
_CONCEPT = re.compile(r"[1-9][0-9]{5,17}", re.ASCII)
_TAG = re.compile(r"<[^<>]*>")
_SEMANTIC_TAG = re.compile(r" \([^()]*\)$")
_SENTENCE_END = re.compile(r"[.!?](?= |$)")

# Relation, its property, and how it is told; in the order of the sentences.
_STATEMENTS = (
    ("description", "schema:description", "{label} is {a_value}."),
    ("instance", "wdt:P31", "{label} is {a_value}."),
    ("subclass", "wdt:P279", "{label} is a kind of {value}."),
    ("part", "wdt:P361", "{label} is part of {value}."),
)


class UnexpectedAnswer(Exception):
    """An answer does not have the form that the service documents.

    Args:
        reason: What is wrong, without any text of the answer.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Request:
    """One GET request: the whole address, and the type of answer that is wanted."""

    url: str
    accept: str = _JSON


Steps = Generator[Request, object, tuple[str, ...]]


def ask(service: str, keyword: str, settings: Settings) -> Steps:
    """What ``service`` knows about a keyword, in sentences; none if it does not know it.

    Args:
        service: One of `settings.REMOTE_SERVICES`.
        keyword: As `clean_keyword` gives it. Nothing else of the caller's is in the requests.
        settings: Where the services are.

    Raises:
        UnexpectedAnswer: While it is sent an answer of another form.
    """
    return _SERVICES[service](keyword, settings)


def endpoint(service: str, settings: Settings) -> str:
    """Everything in the settings that says where ``service`` is.

    Part of the key of what it answered, and of every answer that was given with its help.
    """
    return " ".join(getattr(settings, name) for name in endpoint_settings(service))


def endpoint_settings(service: str) -> tuple[str, ...]:
    """Names of the settings that say where ``service`` is."""
    return {
        "wikidata": ("wikidata_url", "wikidata_sparql_url"),
        "wikipedia": ("wikipedia_url",),
        "snomed": ("snomed_url", "snomed_branch"),
    }[service]


def clean_keyword(keyword: str) -> str:
    """A keyword as it is sent: no control characters, single spaces."""
    return _plain(unicodedata.normalize("NFC", keyword))


def refusal(keyword: str) -> str | None:
    """Why a cleaned keyword is not sent; None if it is. What is long may be a record."""
    if not keyword:
        return "blank"
    if len(keyword) > MAX_KEYWORD:
        return f"longer than {MAX_KEYWORD} characters, so not a keyword"
    return None


def clean_sentence(text: str, most: int = MAX_SENTENCE) -> str:
    """Text of a service as data for a prompt: no control characters, no tags, at most ``most``."""
    text = _plain(text[: 8 * most])
    while (bare := _TAG.sub("", text)) != text:
        text = bare
    return _cut(" ".join(text.split()), most)


def _wikidata(keyword: str, settings: Settings) -> Steps:
    query = {
        "action": "wbsearchentities",
        "search": keyword,
        "language": "en",
        "uselang": "en",
        "type": "item",
        "limit": "1",
        "format": "json",
    }
    found = _media_wiki((yield Request(_address(settings.wikidata_url, query))))
    hits = _array(found.get("search"))
    if not hits:
        return ()
    hit = _object(hits[0])
    entity = _identifier(hit.get("id"), _ENTITY)
    query = {"query": _sparql(entity), "format": "json"}
    answer = _object((yield Request(_address(settings.wikidata_sparql_url, query), _SPARQL_JSON)))
    values: dict[str, list[str]] = {}
    for line in _array(_object(answer.get("results")).get("bindings")):
        cells = _object(line)
        relation, value = (_text(_object(cells.get(c)).get("value")) for c in ("relation", "value"))
        values.setdefault(relation, []).append(clean_sentence(value).rstrip("."))
    labels = values.get("label") or [clean_sentence(_text(hit.get("label", "")))]
    return _statements(labels[0], values)


def _sparql(entity: str) -> str:
    """Statements in English; a name that is the same in all languages has the language mul."""
    texts = f'{{ BIND("label" AS ?relation) wd:{entity} rdfs:label ?value }}'
    for relation, name, _ in _STATEMENTS:
        path = name if relation == "description" else f"{name}/rdfs:label"
        texts += f' UNION {{ BIND("{relation}" AS ?relation) wd:{entity} {path} ?value }}'
    texts += ' FILTER(LANG(?value) IN ("en", "mul"))'
    return (
        f"SELECT DISTINCT ?relation ?value WHERE {{ {texts} }}"
        " ORDER BY ?relation LANG(?value) ?value LIMIT 100"
    )


def _statements(label: str, values: dict[str, list[str]]) -> tuple[str, ...]:
    sentences = []
    for relation, _, form in _STATEMENTS:
        for value in sorted(values.get(relation, [])):
            if label and value:
                sentence = form.format(label=label, value=value, a_value=_with_article(value))
                sentences.append(sentence)
    return _finished(sentences)[:_MOST_STATEMENTS]


def _with_article(value: str) -> str:
    if value.lower().startswith(("a ", "an ", "the ")):
        return value
    return f"an {value}" if value[0].lower() in "aeiou" else f"a {value}"


def _wikipedia(keyword: str, settings: Settings) -> Steps:
    query = {
        "action": "query",
        "generator": "search",
        "gsrsearch": keyword,
        "gsrlimit": "1",
        "gsrnamespace": "0",
        "prop": "extracts",
        "exintro": "1",
        "explaintext": "1",
        "exlimit": "1",
        "redirects": "1",
        "format": "json",
        "formatversion": "2",
    }
    found = _media_wiki((yield Request(_address(settings.wikipedia_url, query))))
    if "query" not in found and "batchcomplete" in found:
        return ()
    pages = _array(_object(found.get("query")).get("pages"))
    if not pages:
        return ()
    return _finished([_text(_object(pages[0]).get("extract"))], MAX_EXTRACT)


def _snomed(keyword: str, settings: Settings) -> Steps:
    base = settings.snomed_url.rstrip("/")
    branch = urllib.parse.quote(settings.snomed_branch, safe="/")
    query = {"term": keyword, "activeFilter": "true", "limit": "1"}
    found = _object((yield Request(_address(f"{base}/{branch}/concepts", query))))
    items = _array(found.get("items"))
    if not items:
        return ()
    concept = _object(items[0])
    number, parent = _identifier(concept.get("conceptId"), _CONCEPT), _term(concept)
    address = f"{base}/browser/{branch}/concepts/{number}/children"
    children: dict[str, str] = {}
    for item in _array((yield Request(_address(address, {"form": "inferred"})))):
        child = _object(item)
        if child.get("active") is not False:
            children[_identifier(child.get("conceptId"), _CONCEPT)] = _term(child)
    names = sorted({name for name in children.values() if name})
    digest = hashlib.sha256(keyword.encode("utf-8")).digest()
    draw = random.Random(int.from_bytes(digest, "big"))
    chosen = draw.sample(names, min(_MOST_CHILDREN, len(names)))
    return _finished(f"One of {parent} is {name}." for name in chosen if parent)


def _term(concept: dict[str, object]) -> str:
    """The preferred term of a concept, or its full name without the semantic tag."""
    preferred = concept.get("pt")
    if preferred is not None:
        return clean_sentence(_text(_object(preferred).get("term")))
    name = concept.get("fsn")
    name = name if isinstance(name, str) else _object(name).get("term")
    return _SEMANTIC_TAG.sub("", clean_sentence(_text(name)))


MOST_REQUESTS = {"wikidata": 2, "wikipedia": 1, "snomed": 2}
"""Requests for one keyword, by service; redirects aside."""

_SERVICES: dict[str, Callable[[str, Settings], Steps]] = {
    "wikidata": _wikidata,
    "wikipedia": _wikipedia,
    "snomed": _snomed,
}


def _address(url: str, query: dict[str, str]) -> str:
    return f"{url}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"


def _media_wiki(answer: object) -> dict[str, object]:
    """The answer of a MediaWiki; it tells its errors under status 200."""
    fields = _object(answer)
    if "error" in fields or "errors" in fields:
        raise UnexpectedAnswer("the service answered with an error")
    return fields


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"the answer has {_kind(value)} in the place of an object")
    return value


def _array(value: object) -> list[object]:
    if not isinstance(value, list):
        raise UnexpectedAnswer(f"the answer has {_kind(value)} in the place of an array")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UnexpectedAnswer(f"the answer has {_kind(value)} in the place of a text")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a truth value"}
    return "nothing" if value is None else names.get(type(value), "a number")


def _identifier(value: object, form: re.Pattern[str]) -> str:
    """An identifier that becomes part of the next request, so nothing else may pass."""
    text = _text(value)
    if not form.fullmatch(text):
        raise UnexpectedAnswer("the answer has a text in the place of an identifier")
    return text


def _finished(sentences: Iterable[str], most: int = MAX_SENTENCE) -> tuple[str, ...]:
    """The sentences cleaned, each once, without blank ones."""
    cleaned = (clean_sentence(sentence, most) for sentence in sentences)
    return tuple(dict.fromkeys(sentence for sentence in cleaned if sentence))


def _plain(text: str) -> str:
    """Text in one line: control characters become spaces, invisible ones vanish."""
    kinds = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Cs": "", "Co": ""}
    return " ".join("".join(kinds.get(unicodedata.category(c), c) for c in text).split())


def _cut(text: str, most: int) -> str:
    """At most ``most`` characters: up to the end of a sentence, else of a word."""
    if len(text) <= most:
        return text
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if found.end() <= most]
    if ends and ends[-1] > most // 2:
        return text[: ends[-1]]
    words = text[: most - 1].rsplit(" ", maxsplit=1)[0]
    return f"{words}…"
