"""Checks a chart's manifests, and writes the server's settings and the files that they name.

usage: chart.py MANIFESTS VERSION FOLDER

Each manifest is held against the schema of its kind in this version of Kubernetes; a kind that is not
Kubernetes' own has a schema here, or is refused. Prints one line per manifest.
"""

import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

LABELS = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}
METADATA = {
    "type": "object",
    "required": ["name", "labels"],
    "properties": {"name": {"type": "string"}, "labels": LABELS},
}


def foreign(spec):
    """The schema of a kind of the Prometheus operator."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "monitoring.coreos.com/v1"},
            "kind": {},
            "metadata": METADATA,
            "spec": spec,
        },
    }


RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["expr"],
    "properties": {
        "alert": {"type": "string"},
        "record": {"type": "string"},
        "expr": {"type": "string"},
        "for": {"type": "string"},
        "keep_firing_for": {"type": "string"},
        "labels": LABELS,
        "annotations": LABELS,
    },
}
FOREIGN = {
    "ServiceMonitor": foreign(
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "endpoints"],
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": LABELS},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["port"],
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {"type": "string"},
                        },
                    },
                },
            },
        }
    ),
    "PrometheusRule": foreign(
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["groups"],
            "properties": {
                "groups": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "rules"],
                        "properties": {
                            "name": {"type": "string"},
                            "interval": {"type": "string"},
                            "rules": {"type": "array", "minItems": 1, "items": RULE},
                        },
                    },
                }
            },
        }
    ),
}


def check(manifest, version):
    """Raises if a manifest is not as its kind has to be."""
    schema = FOREIGN.get(manifest["kind"])
    if schema:
        jsonschema.validate(manifest, schema)
    else:
        # Without a schema this raises too.
        kubernetes_validate.validate(manifest, version, strict=True)


def mounted(pod):
    """The paths below which the container finds the files of its Secrets."""
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            for item in source["secret"]["items"]:
                yield f"{mounts[volume['name']]}/{item['path']}"


def main(path, version, folder):
    manifests = [one for one in yaml.safe_load_all(pathlib.Path(path).read_text()) if one]
    for manifest in manifests:
        check(manifest, version)
        print(manifest["kind"], manifest["metadata"]["name"])
    folder = pathlib.Path(folder)
    for manifest in manifests:
        if "tillwatch.toml" in manifest.get("data", {}):
            (folder / "tillwatch.toml").write_text(manifest["data"]["tillwatch.toml"])
        if manifest["kind"] in ("StatefulSet", "Deployment"):
            pod = manifest["spec"]["template"]["spec"]
            (folder / "files").write_text("\n".join(mounted(pod)))


main(*sys.argv[1:])
