"""Why a task of lm-eval could not be loaded, in one line; never with a document's words."""

from __future__ import annotations

from holdfast.errors import DataError, HoldfastError, raised


def explained(error: Exception, name: str, folder: str | None, where: str) -> HoldfastError:
    """Say what went wrong and what to do about it, the first cause that is known."""
    if isinstance(error, HoldfastError):
        return error
    causes: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in causes:
        causes.append(at)
        at = at.__cause__ or at.__context__
    kinds = {cls.__name__ for one in causes for cls in type(one).__mro__}
    words = " ".join(str(one) for one in causes).lower()
    task = f"task '{name}'"
    if "GatedRepoError" in kinds or "gated dataset" in words:
        return DataError(
            where, f"the data of {task} are gated", "accept their terms on the hub and set HF_TOKEN"
        )
    if "scripts are no longer supported" in words or "trust_remote_code" in words:
        return DataError(
            where, f"the data of {task} come as code, which is not run", "choose another task"
        )
    if kinds & {"OfflineModeIsEnabled", "ConnectionError", "TransportError", "TimeoutError"} or (
        "couldn't reach" in words
    ):
        return DataError(
            where,
            f"no network to fetch the data of {task}",
            "run it once with one, or give `folder`, a folder of tasks with their data",
        )
    empty = "corresponds to no data" in words
    if folder is not None and (empty or kinds & {"FileNotFoundError", "IndexError"}):
        return DataError(
            where,
            f"{task} finds no data",
            f"put its files into {folder}: paths in its YAML begin there",
        )
    if "DatasetNotFoundError" in kinds:
        return DataError(
            where, f"the data of {task} are not on the hub", "see its YAML for where they were"
        )
    missing = next((one for one in causes if isinstance(one, ImportError)), None)
    if missing is not None:
        package = getattr(missing, "name", None) or "another package"
        return DataError(where, f"{task} needs {package}", "install it")
    if "IndexError" in kinds:
        return DataError(where, f"{task} has no document", "choose another task")
    return DataError(where, f"{task} cannot be loaded ({raised(error)})", "mend its YAML")
