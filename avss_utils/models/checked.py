"""The check of a model by numbers, made once for its weights and library and then remembered."""

import contextlib
import hashlib
import inspect
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from avss_utils.errors import WriteError
from avss_utils.models.blocks import consistency, finding, passing, running
from avss_utils.models.blocks.consistency import check_model, keep_shared, shares_cache
from avss_utils.store.files import cache_dir, file_sha256, write_json

if TYPE_CHECKING:  # seconds to import, and who reads a record needs no model
    from transformers import PreTrainedModel

CODE = (consistency, finding, passing, running)


def check_once(model: "PreTrainedModel", weights_sha256: str) -> None:
    """``blocks.check_model``, and whether the model ``shares_cache``; of a second load as kept.

    Kept in the cache folder by weights, configuration, the check and what it runs (CODE), library
    versions, number format and kind of device. Raises UsageError as ``check_model`` does: a refusal
    is not kept.
    """
    made_of = [
        *(weights_sha256, model.config.to_json_string()),
        *(file_sha256(Path(inspect.getfile(module))) for module in CODE),
        *(metadata.version(name) for name in ("torch", "transformers")),
        *(str(model.dtype), model.device.type),
    ]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
    place = cache_dir() / "checked" / f"{key}.json"
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))["shares_cache"]
    except (OSError, ValueError, KeyError, TypeError):
        kept = None
    if isinstance(kept, bool):
        keep_shared(model, kept)
    else:
        check_model(model)
        with contextlib.suppress(OSError, WriteError):  # then the next load checks it again
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, {"shares_cache": shares_cache(model)})
