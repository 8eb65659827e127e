"""Documents of the commands that deploy: on a cluster, or with ``--target local`` on this host."""

from scepsy.cli.schemas.shapes import FLAG, NUMBER, TEXT, WHOLE, Shape, by_name, either, maybe, record, rows

_OBJECTS = record(
    {"plan": TEXT, "objects": rows(record({"kind": TEXT, "name": TEXT}))},
    description="With --dry-run.",
)
_LOCAL = record(
    {
        "phase": TEXT,
        "gateway": maybe(TEXT),
        "instances": rows(
            record(
                {"instance": TEXT, "phase": TEXT, "url": maybe(TEXT), "restarts": WHOLE, "problem": maybe(TEXT)},
                {"llm": TEXT, "alive": FLAG, "pid": maybe(WHOLE), "metrics": maybe(by_name(maybe(NUMBER)))},
            )
        ),
        "notes": rows(TEXT),
        "problem": maybe(TEXT),
    },
    {"target": {"const": "local"}},
    description="With --target local.",
)
_INSTANCE = record(
    {
        "instance": TEXT,
        "llm": TEXT,
        "deployment": TEXT,
        "node": record({"planned": TEXT, "actual": maybe(TEXT)}),
        "gpus": record({"planned": rows(TEXT)}),
        "share_pct": WHOLE,
        "memory_bytes": WHOLE,
        "ready": FLAG,
        "restarts": WHOLE,
        "problem": maybe(TEXT),
        "load": maybe(by_name(maybe(NUMBER))),
    }
)
_STATUS = record(
    {
        "release": TEXT,
        "state": {"enum": ["absent", "changing", "serving", "degraded"]},
        "plan": maybe(TEXT),
        "instances": rows(_INSTANCE),
        "drift": rows(TEXT),
    },
    {"target": TEXT, "added": rows(TEXT)},
)
_NODE = record(
    {"name": TEXT, "gpu_type": TEXT, "gpus": WHOLE},
    {"nvlink_domains": rows(rows(WHOLE)), "gpu_links": rows(rows(TEXT)), "gpu_uuids": rows(TEXT)},
)
_GPU_TYPE = record({"name": TEXT, "memory_bytes": WHOLE, "bandwidth_bytes_per_s": NUMBER, "flops_per_s": NUMBER})

DOCUMENTS: dict[str, Shape] = {
    "render": either(
        record(
            {
                "apiVersion": {"const": "v1"},
                "kind": {"const": "List"},
                "items": rows(record({"apiVersion": TEXT, "kind": TEXT, "metadata": record({"name": TEXT})})),
            },
            description="Kubernetes objects, for kubectl apply.",
        ),
        record({"plan": TEXT, "files": rows(TEXT)}, description="With --kustomize."),
    ),
    "diff": record({"differences": rows(TEXT)}),
    "apply": either(
        record({"plan": TEXT, "kept": WHOLE, "started": WHOLE, "stopped": WHOLE, "written": WHOLE}), _OBJECTS, _LOCAL
    ),
    "wait": record({"plan": TEXT, "serving": WHOLE}),
    "status": either(_STATUS, _LOCAL),
    "delete": either(
        record({"release": TEXT, "deleted": WHOLE}),
        record({"release": TEXT, "stopped": FLAG}, description="With --target local."),
    ),
    "discover": record({"name": TEXT, "gpu_types": rows(_GPU_TYPE), "nodes": rows(_NODE)}),
}
