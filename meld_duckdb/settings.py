"""Settings, resolved once: argument > ``MELD_*`` environment > ``meld.toml`` > default.

This is the only module that reads the environment.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meld_duckdb import trust
from meld_duckdb.errors import ConfigError, unknown_name
from meld_duckdb.setting_checks import REMOTE_SERVICES, check_services, complain

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_ENCODER = "all-minilm-l6-v2"
DEFAULT_WORKSPACE = Path(".meld")


def default_model_dir() -> Path:
    """``MELD_MODEL_DIR``, else ``meld-duckdb/models`` below the XDG cache directory."""
    given = os.environ.get("MELD_MODEL_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "meld-duckdb" / "models"


def trusted_path() -> Path:
    """The user's file of what workspaces may do; see `trust`."""
    given = os.environ.get("XDG_CONFIG_HOME")
    return (Path(given) if given else Path.home() / ".config") / "meld-duckdb" / "trusted"


def runtime_dir() -> Path:
    """Directory for sockets whose path in the workspace would be too long; it is of this user."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "meld" if given else Path(tempfile.gettempdir()) / f"meld-{os.geteuid()}"


def prepare_lance() -> None:
    """Give LanceDB two threads to compute with where it would take one; call before importing it.

    It leaves two cores to input and output, so that up to three cores make one thread, on which
    building a full text index waits for itself for ever (lancedb#3568, lance#7350). A value that
    is set already is left alone.
    """
    if (os.cpu_count() or 1) <= 3:
        os.environ.setdefault("LANCE_CPU_THREADS", "2")
    # A full text index of a million facts takes 0.2 GB less in smaller parts, and no longer.
    os.environ.setdefault("LANCE_FTS_NUM_SHARDS", "1")
    os.environ.setdefault("LANCE_FTS_PARTITION_SIZE", "64")
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every table it makes


def prepare_vllm() -> None:
    """Keep vLLM in this process, quiet, and from reporting its use; call before importing it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")


def prepare_ray() -> None:
    """Keep Ray quiet, and from reporting its use; call before importing it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every actor


def environment_with(**added: str) -> dict[str, str]:
    """The environment for a program that is started, with variables of its own."""
    return {**os.environ, **added}


def read_key(settings: Settings) -> str | None:
    """The key of the OpenAI-compatible server, None without one.

    Raises:
        ConfigError: The file or variable that should have it has none; its content is never told.
    """
    name, file = settings.openai_key_env, settings.openai_key_file
    where, key = None, ""
    try:
        if name != "none":
            where, key = f"the environment variable {name}", os.environ.get(name, "").strip()
        elif file != "none":
            where, key = f"the file {file}", Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"openai_key_file {file} cannot be read: {type(error).__name__}"
        ) from None
    if where is not None and not (key.isascii() and key.isprintable() and key):
        raise ConfigError(f"{where} has no key, expected one line of printable ASCII")
    return key or None


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Settings that can change an answer. Every field is part of the cache key.

    Attributes:
        model: Base language model: a name of ``meld models list``, a local path or an HF name.
        encoder: Embedding model, named likewise.
        demonstrations: Most labelled examples shown in a prompt (|D| of the paper, default 8).
        max_record_chars: Text of a record beyond this many characters is not shown to a model
            nor compared; the digest still covers all of it.
        max_prompt_tokens: A prompt is cut to this many tokens: demonstrations go first.
        experts: Most trained experts that answer a question of the language model together; 0 for
            the model alone.
        expert_weights: ``"equal"``, or ``"router"`` to weigh them by their relevance.
        expert_tasks: ``"own"``: those of the question's task, if it has any; ``"all"``: of any.
        expert_diversity_percent: What likeness to an expert already chosen costs another one, in
            hundredths of relevance, from 0 to 100; 0 for the most relevant ones.
        merged_rank: Rank that their merged adapters are brought back to; 0 keeps them exact.
    """

    model: str = DEFAULT_MODEL
    encoder: str = DEFAULT_ENCODER
    demonstrations: int = 8
    max_record_chars: int = 2_000
    max_prompt_tokens: int = 1_536
    experts: int = 3
    expert_weights: str = "equal"
    expert_tasks: str = "own"
    expert_diversity_percent: int = 0
    merged_rank: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the query path needs to know.

    Attributes:
        workspace: Directory of index, labels, cache and experts; made on first write.
        model_dir: Where downloaded models are kept, shared by all workspaces.
        backend: ``"transformers"``, ``"vllm"`` or ``"openai"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        engine_batch: Prompts a language model evaluates at once.
        on_error: ``"null"`` or ``"fail"``, for calls that do not say.
        cache: Whether answers are read from and written to the cache.
        progress: Whether notices and progress go to standard error.
        learn: Whether SQL may change what the workspace knows: ``meld_learn``, ``meld.index``.
        max_calls: Prompts a language model may be asked in a statement; 0 for any number.
        max_seconds: Seconds that functions of a statement may take; 0 for any time.
        max_pairs: Table functions refuse to compare more pairs than this.
        starter: Where the experts for tasks that the workspace has none of are:
            ``"built-in"``, ``"none"``, or a directory like that of the package.
        remote: Services that keywords may be sent to, such as ``"wikidata,snomed"``; ``"none"``.
        remote_contact: Address told to these services, which may block clients that tell none.
        wikidata_url: The API that finds an entity of Wikidata by its name.
        wikidata_sparql_url: Where statements about that entity are queried.
        wikipedia_url: The API of a Wikipedia.
        snomed_url: A Snowstorm server with SNOMED CT.
        snomed_branch: The branch of its terminology, such as ``"MAIN/SNOMEDCT-US"``.
        engine: ``"auto"`` answers by the running engine of the workspace, else in this process;
            ``"required"`` by the engine or not at all; ``"local"`` never by it.
        engine_timeout_s: Seconds after which a call of the engine fails; 0 for no limit.
        engine_most_mb: Megabytes of arguments that an engine takes in one call.
        engine_address: ``"workspace"`` finds the engine through the workspace; otherwise
            ``"tls://HOST:PORT"``, or ``"tcp://HOST:PORT"`` on this machine, whatever workspace it
            serves. An engine that is named is required: ``"auto"`` does not answer without it.
        engine_token_file: File with the token of such an engine; ``"none"`` without one.
        engine_tls_cert: Certificate by which a TLS engine is known; ``"none"`` for the system's.
        vllm_memory_percent: Share of the device's memory that vLLM may take.
        vllm_adapters: Adapters that vLLM, or an OpenAI-compatible server, keeps loaded.
        openai_url: Address of an OpenAI-compatible server, with ``/v1``; ``"none"`` without one.
        openai_model: What that server calls the language model.
        openai_key_file: File with its key; ``"none"`` without one.
        openai_key_env: Environment variable with its key; ``"none"`` without one.
        openai_concurrency: Prompts it is asked at once.
        openai_timeout_s: Seconds for a request to it, repetitions included.
        log_data: Whether the log of the engine may hold contents of rows.
        answer: The settings that can change an answer.
    """

    workspace: Path = DEFAULT_WORKSPACE
    model_dir: Path = field(default_factory=default_model_dir)
    backend: str = "transformers"
    device: str = "auto"
    engine_batch: int = 16
    on_error: str = "null"
    cache: bool = True
    progress: bool = True
    learn: bool = True
    max_calls: int = 0
    max_seconds: int = 0
    max_pairs: int = 5_000_000
    starter: str = "built-in"
    remote: str = "none"
    remote_contact: str = "none"
    wikidata_url: str = "https://www.wikidata.org/w/api.php"
    wikidata_sparql_url: str = "https://query.wikidata.org/sparql"
    wikipedia_url: str = "https://en.wikipedia.org/w/api.php"
    snomed_url: str = "https://browser.ihtsdotools.org/snowstorm/snomed-ct"
    snomed_branch: str = "MAIN"
    engine: str = "auto"
    engine_timeout_s: int = 0
    engine_most_mb: int = 256
    engine_address: str = "workspace"
    engine_token_file: str = "none"
    engine_tls_cert: str = "none"
    vllm_memory_percent: int = 90
    vllm_adapters: int = 8
    openai_url: str = "none"
    openai_model: str = "none"
    openai_key_file: str = "none"
    openai_key_env: str = "none"
    openai_concurrency: int = 8
    openai_timeout_s: int = 300
    log_data: bool = False
    answer: AnswerSettings = AnswerSettings()

    @property
    def remote_services(self) -> tuple[str, ...]:
        """The services that ``remote`` allows."""
        parts = (part.strip().lower() for part in self.remote.split(","))
        return tuple(part for part in parts if part in REMOTE_SERVICES)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one setting came from: ``key`` as in ``meld.toml``, its value, and the source."""

    key: str
    value: object
    source: str


def resolve(
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Settings, list[Origin]]:
    """Resolve all settings and tell where each came from.

    Args:
        overrides: Flat keys, for example ``{"workspace": "w", "model": "..."}``.
        environ: The environment; the process's own by default.

    Raises:
        ConfigError: A key is unknown (the closest one is named) or a value has the wrong type.
    """
    environ = os.environ if environ is None else environ
    layers: list[tuple[str, dict[str, object]]] = [("default", {})]
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    from_env = {key: environ[name] for key in _FIELDS if (name := f"MELD_{key.upper()}") in environ}
    workspace = find_workspace(given.get("workspace"), environ)
    toml_path = workspace / "meld.toml"
    layers.append((str(toml_path), _read_toml(toml_path)))
    layers.extend((f"MELD_{key.upper()}", {key: value}) for key, value in from_env.items())
    layers.append(("argument", given))

    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            if key not in _FIELDS:
                what, hint = unknown_name("setting", key, _FIELDS)
                raise ConfigError(f"{what} in {source}", hint=hint)
            values[key] = _coerce(key, value, source)
            sources[key] = source
    if sources.get("workspace", "default") == "default":
        trust.check_default(workspace)
    held = [key for key, source in sources.items() if source == str(toml_path)]
    trust.check_settings(toml_path, layers[1][1], held, trusted_path())
    answer = AnswerSettings(**{k: v for k, v in values.items() if k in _ANSWER_FIELDS})  # type: ignore[arg-type]
    outer = {k: v for k, v in values.items() if k not in _ANSWER_FIELDS}
    settings = Settings(**outer, answer=answer)  # type: ignore[arg-type]
    origins = [
        Origin(
            key,
            getattr(settings.answer if key in _ANSWER_FIELDS else settings, key),
            sources.get(key, "default"),
        )
        for key in _FIELDS
    ]
    return settings, origins


def find_workspace(given: object = None, environ: Mapping[str, str] | None = None) -> Path:
    """The workspace whose ``meld.toml`` is read: the one given, ``MELD_WORKSPACE``, ``.meld``."""
    named = (os.environ if environ is None else environ).get("MELD_WORKSPACE")
    return Path(str(given or named or DEFAULT_WORKSPACE))


def trust_toml(workspace: Path) -> list[str]:
    """Let the ``meld.toml`` of a workspace, as it is now, say where data and secrets go.

    Returns:
        The settings that this is about.

    Raises:
        ConfigError: It is no TOML, or the trust cannot be noted.
    """
    path = workspace / "meld.toml"
    return trust.trust(path, _read_toml(path), trusted_path())


_ANSWER_FIELDS: dict[str, type] = {
    f.name: type(f.default) for f in dataclasses.fields(AnswerSettings)
}
_FIELDS: dict[str, type] = {
    "workspace": Path,
    "model_dir": Path,
    "backend": str,
    "device": str,
    "engine_batch": int,
    "on_error": str,
    "cache": bool,
    "progress": bool,
    "learn": bool,
    "max_calls": int,
    "max_seconds": int,
    "max_pairs": int,
    "starter": str,
    "remote": str,
    "remote_contact": str,
    "wikidata_url": str,
    "wikidata_sparql_url": str,
    "wikipedia_url": str,
    "snomed_url": str,
    "snomed_branch": str,
    "engine": str,
    "engine_timeout_s": int,
    "engine_most_mb": int,
    "engine_address": str,
    "engine_token_file": str,
    "engine_tls_cert": str,
    "vllm_memory_percent": int,
    "vllm_adapters": int,
    "openai_url": str,
    "openai_model": str,
    "openai_key_file": str,
    "openai_key_env": str,
    "openai_concurrency": int,
    "openai_timeout_s": int,
    "log_data": bool,
    **_ANSWER_FIELDS,
}
_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "on_error": ("null", "fail"),
    "expert_weights": ("equal", "router"),
    "expert_tasks": ("own", "all"),
    "engine": ("auto", "required", "local"),
}
_ZERO_ALLOWED = frozenset(
    "max_calls max_seconds demonstrations experts expert_diversity_percent merged_rank "
    "engine_timeout_s".split()
)


def _read_toml(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _coerce(key: str, value: object, source: str) -> object:
    wanted = _FIELDS[key]
    result: object = None
    if wanted is Path and isinstance(value, str | Path):
        result = Path(value)
    elif wanted is bool:
        word = str(value).lower()
        if word in {"true", "1", "yes", "on", "false", "0", "no", "off"}:
            result = word in {"true", "1", "yes", "on"}
    elif wanted is int and not isinstance(value, bool):
        text = str(value)
        if re.fullmatch("[0-9]{1,18}", text) and (int(text) > 0 or key in _ZERO_ALLOWED):
            result = int(text)
    elif wanted is str and isinstance(value, str) and value:
        result = value
    if result is None:
        expected = {Path: "a path", bool: "true or false", int: "a positive whole number"}.get(
            wanted, "a text"
        )
        raise ConfigError(f"setting {key!r} in {source} is {value!r}, expected {expected}")
    if key in _CHOICES and result not in _CHOICES[key]:
        raise ConfigError(
            f"setting {key!r} in {source} is {value!r}, expected one of {', '.join(_CHOICES[key])}"
        )
    if key == "remote":
        check_services(str(result), source)
    complaint = complain(key, str(result))
    if complaint:
        raise ConfigError(f"setting {key!r} in {source} is {value!r}, expected {complaint}")
    return result
