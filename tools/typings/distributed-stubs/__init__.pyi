from typing import Any

class WorkerPlugin:
    idempotent: bool

class Worker: ...

class Client:
    def run(self, function: Any, *args: Any, workers: list[str] | None = None) -> dict[str, Any]: ...
    def scheduler_info(self, n_workers: int = 5) -> dict[str, Any]: ...
