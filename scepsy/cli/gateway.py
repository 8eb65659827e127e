"""``scepsy gateway``: route calls to engine instances and record them."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from scepsy.cli.output import command, emit_json

LogLevel = Literal["debug", "info", "warning", "error"]


@command
def gateway(
    config: Annotated[Path, typer.Option("--config", "-c", help="Gateway file (format: scepsy.gateway).")],
    record: Annotated[Path | None, typer.Option(help="Record calls to this file, whatever the gateway file says.")] = None,
    host: Annotated[str | None, typer.Option(help="Listen here instead (loopback unless keys are configured).")] = None,
    port: Annotated[int | None, typer.Option(help="Listen on this port instead; 0: any free one.")] = None,
    log_level: Annotated[
        LogLevel, typer.Option(help="How much the gateway logs. Keys and prompts are logged at no level.")
    ] = "info",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document that says where it listens.")] = False,
) -> None:
    """Serve an OpenAI-compatible gateway: route by model name, record lengths and hashes, never text unless told.

    Reloads its instances when the file changes (or on SIGHUP); SIGTERM lets the calls in flight finish.

    Example: **scepsy gateway --config gateway.yaml --record calls.jsonl**, then point any agent program's base_url at
    http://127.0.0.1:8080/run/my-run-1/v1
    """
    from executor.gateway.config import load_gateway
    from executor.gateway.serve import run
    from executor.recording.config import Recording
    from scepsy.errors import InputError

    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format="scepsy: %(message)s")
    settings = load_gateway(config)
    changes: dict[str, object] = {}
    if record is not None:
        base = settings.recording or Recording(path=str(record))
        changes["recording"] = msgspec.structs.replace(base, path=str(record.absolute()))
    if host is not None:
        changes["host"] = host
    if port is not None:
        changes["port"] = port
    try:
        settings = msgspec.structs.replace(settings, **changes)
    except ValueError as error:
        raise InputError(f"{config}: {error}") from error

    def announce(url: str) -> None:
        if as_json:
            emit_json({"url": url, "llms": sorted({endpoint.llm for endpoint in settings.endpoints})})
        else:
            print(f"listening on {url}")
        sys.stdout.flush()

    run(config, settings, announce)
