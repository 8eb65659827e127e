"""A Kustomize base: the same objects as files, for overlays and for Argo CD. Pure: the same plan gives the same text.

Objects carry Argo CD's sync waves, so that neighbours on a GPU start one after another there too: Argo waits until
a wave is healthy before it applies the next. The plan's record is applied by the server: otherwise Argo would repeat it in
an annotation, and annotations end at 256 KiB.
"""

import re
from collections.abc import Iterable
from typing import Any

from executor.manifests.emit import in_namespace, yaml_text
from executor.manifests.pods import Manifest
from executor.manifests.render import Rendered

SYNC_WAVE = "argocd.argoproj.io/sync-wave"
SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
_IMAGE = re.compile(r"(?P<name>[^@]+?)(?::(?P<tag>[^:/@]+))?(?:@(?P<digest>sha256:[0-9a-f]+))?")


def kustomize_base(made: Rendered) -> dict[str, str]:
    """Text by file name: one file per role, and the kustomization that lists them and the images."""
    namespace = made.options.namespace
    parts: dict[str, list[Manifest]] = {
        "plan.yaml": [_annotated(made.plan, SYNC_OPTIONS, "ServerSideApply=true")],
        "base.yaml": list(made.base),
        "devices.yaml": [_in_wave(each, 0) for each in made.holders],
        "engines.yaml": [_in_wave(engine.deployment, 1 + engine.wave) for engine in made.engines],
        "gateway.yaml": [_in_wave(each, 1) for each in (made.gateway_config, *made.gateway)],
    }
    used = {name: yaml_text([in_namespace(each, namespace) for each in objects]) for name, objects in parts.items() if objects}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": sorted(used),
        "images": list(_images(each for objects in parts.values() for each in objects)),
    }
    return {"kustomization.yaml": yaml_text([kustomization]), **used}


def split_image(image: str) -> dict[str, str]:
    """An image as Kustomize's ``images`` wants it.

    >>> split_image("registry:5000/a/b:v1"), split_image("a@sha256:0f")
    ({'name': 'registry:5000/a/b', 'newTag': 'v1'}, {'name': 'a', 'digest': 'sha256:0f'})
    """
    match = _IMAGE.fullmatch(image)
    assert match is not None
    entry = {"name": match["name"], "newTag": match["tag"] or "", "digest": match["digest"] or ""}
    if entry["digest"]:
        entry["newTag"] = ""  # a digest decides; Kustomize takes only one of the two
    return {key: value for key, value in entry.items() if value}


def _in_wave(manifest: Manifest, wave: int) -> Manifest:
    return _annotated(manifest, SYNC_WAVE, str(wave))


def _annotated(manifest: Manifest, key: str, value: str) -> Manifest:
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), key: value}}}


def _images(objects: Iterable[Any]) -> Iterable[dict[str, str]]:
    found: dict[str, None] = {}
    for each in objects:
        if each["kind"] == "Deployment":
            spec = each["spec"]["template"]["spec"]
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                found[container["image"]] = None
    return map(split_image, found)
